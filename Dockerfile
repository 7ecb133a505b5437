# Three images: `service` serves models, `service-diffusers` also those in diffusers' format, `trainer` trains and exports.
#
#   docker build --target service .
#   docker build --target service --build-arg TORCH_INDEX_URL= .      for an NVIDIA GPU: PyPI's wheels are the CUDA build
#   docker build --target service --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126 .   for older drivers

# By digest, for the same base in every build: --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS base
# The packages are installed without the project's code; the script `genserve` finds the code through this path.
ENV PYTHONPATH=/app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
# 1000 is the first user's id on most machines, who then owns what the trainer writes into a mounted folder.
RUN useradd --uid 1000 --no-create-home --home-dir /tmp genserve
WORKDIR /app


FROM base AS service-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The images copy this environment. The base image's pip installs into it, so that it contains no pip.
RUN python -m venv --without-pip /opt/venv
WORKDIR /src
COPY constraints.txt ./
# Torch in a layer of its own: the largest layer changes least. An extra index is enough to choose the CPU build, because
# a local version such as 2.13.0+cpu counts as newer than PyPI's 2.13.0. Nothing compiles against torch's headers.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN pip --python /opt/venv/bin/python install -c constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL} torch \
    && rm -r /opt/venv/lib/python3.11/site-packages/torch/include /opt/venv/lib/python3.11/site-packages/torch/test
# The project without its code installs the dependencies only: a change of code does not rebuild this layer.
COPY pyproject.toml ./
RUN touch README.md && pip --python /opt/venv/bin/python install -c constraints.txt '.[serve,gpu,redis,sign]'


# The packages of the image `service` in CycloneDX: docker build --target sbom --output build .
FROM base AS describe-packages
COPY scripts/requirements-supply.txt ./
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir -r requirements-supply.txt
COPY --from=service-packages /opt/venv /opt/venv
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /opt/venv/bin/python


FROM scratch AS sbom
COPY --from=describe-packages /sbom.json /


FROM base AS service
COPY --from=service-packages /opt/venv /opt/venv
COPY service/ service/
COPY weights/ weights/
USER 1000:1000
ARG GIT_COMMIT
# Who can reach the container's port is decided where it is published: on loopback, unless you also set API keys.
ENV GENSERVE_HOST=0.0.0.0 GENSERVE_PORT=8000 GENSERVE_ALLOW_ANONYMOUS=true GENSERVE_COMMIT=${GIT_COMMIT:-unknown}
EXPOSE 8000
# http.client, because urllib would send even this request to a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ['GENSERVE_PORT']), timeout=4); \
c.request('GET', '/health/ready'); \
sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "service"]


FROM service-packages AS diffusers-packages
# Only what the environment lacks, in a folder of its own: the image gets one small layer instead of all packages again.
RUN pip --python /opt/venv/bin/python install --prefix /opt/diffusers -c constraints.txt '.[diffusers]'


FROM service AS service-diffusers
COPY --from=diffusers-packages /opt/diffusers /opt/venv


FROM service-packages AS trainer-packages
RUN pip --python /opt/venv/bin/python install -c constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL} torchvision \
    && pip --python /opt/venv/bin/python install -c constraints.txt '.[sign,train]'


FROM base AS trainer
# With the data in the image, training needs no network. Any uid may write to the folders: see docker-compose.yml.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends dataset-fashion-mnist \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 1777 runs data
COPY --from=trainer-packages /opt/venv /opt/venv
COPY service/ service/
COPY trainer/ trainer/
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]
