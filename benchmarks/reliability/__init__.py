"""What the service promises about reliability: for each demand a measurement, and a planted fault it must notice."""
