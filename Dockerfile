# Segue in two images of one source:
#
#   docker build --target origin -t segue-origin .   serves media: no GStreamer, no database, no pages
#   docker build --target full   -t segue .          everything; the default target
#
# Both run as user 10001 with a read-only root: only /var/lib/segue is written. `.ci/image` proves each stage in a Debian 12
# that is made from packages, where no engine and no image registry can be reached. docs/OPERATIONS.md, "Containers".

FROM debian:bookworm-slim AS toolchain-origin
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
# The same set-up as on a developer's machine, before the sources: a layer that stays while only they change.
COPY Cargo.toml ./
COPY .ci/setup .ci/setup
RUN .ci/setup origin && rm -rf /var/lib/apt/lists/*

FROM toolchain-origin AS toolchain-full
RUN .ci/setup build && rm -rf /var/lib/apt/lists/*

FROM toolchain-origin AS build-origin
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=segue-target \
    cargo build --release --locked --bin segue --no-default-features --features s3,otel \
    && install -D target/release/segue /out/segue

FROM toolchain-full AS build-full
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=segue-target \
    cargo build --release --locked --bin segue && install -D target/release/segue /out/segue

# ── what both run on ──

FROM debian:bookworm-slim AS base
# The certificates are those that buckets, collectors and databases over TLS are checked against.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 segue \
    && useradd --uid 10001 --gid segue --no-create-home --home-dir /var/lib/segue --shell /usr/sbin/nologin segue \
    && install -d -o segue -g segue -m 0750 /var/lib/segue
ENV SEGUE_DATA=/var/lib/segue \
    SEGUE_SERVER__LISTEN=0.0.0.0:8080 \
    SEGUE_SERVER__ADMIN_LISTEN=0.0.0.0:9090 \
    SEGUE_LOG__JSON=true \
    TMPDIR=/var/lib/segue
WORKDIR /var/lib/segue
VOLUME /var/lib/segue
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["segue", "health"]
ENTRYPOINT ["segue"]

FROM base AS origin
COPY --from=build-origin /out/segue /usr/local/bin/segue
USER 10001:10001
CMD ["serve", "--role", "origin"]

FROM base AS full
RUN apt-get update && apt-get install -y --no-install-recommends \
        gstreamer1.0-libav gstreamer1.0-plugins-bad gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-full /out/segue /usr/local/bin/segue
USER 10001:10001
CMD ["serve"]
