from service.access.streams import Streams


def test_each_client_follows_so_many() -> None:
    streams = Streams(2)
    with streams.following("a"), streams.following("b"):
        assert not streams.full("a")
        with streams.following("a"):
            assert streams.full("a")
            assert not streams.full("b")
        assert not streams.full("a")
    assert not streams._open
