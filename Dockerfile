# The job of `make demo` in a container: six runs on real digits, and the board.
#   docker build -t lsqctl .
#   docker run --rm lsqctl
# Any command:  docker run --rm -v "$PWD:/work" -w /work lsqctl lsqctl runs ls
FROM python:3.12-slim

# The machine: make, and a user of its own; nothing here runs as root afterwards.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 lsqctl \
 && install --directory --owner=lsqctl --group=lsqctl /lsqctl

WORKDIR /lsqctl
USER lsqctl
ENV PIP_NO_CACHE_DIR=1 PATH=/lsqctl/.venv/bin:$PATH
COPY --chown=lsqctl:lsqctl . .

RUN make .venv/.ready
RUN lsqctl --version && lsqctl recipe check digits/resnet8-fp32 digits/resnet8-lsq

CMD ["make", "demo"]
