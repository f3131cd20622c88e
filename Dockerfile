# syntax=docker/dockerfile:1
# The three images: one binary each, the C library, and nothing else. No shell, no package manager, no root.
#
#   docker build --target control-plane -t hermes-control-plane .
#   docker build --target data-plane    -t hermes-data-plane .
#   docker build --target hermes        -t hermes .              simulated engines, load, and the router for a laptop
#
# BUILDER is where binaries are made. Binaries in dist/ of the context are taken instead of being built; any Debian will
# do as BUILDER then, and no network is needed.
ARG BUILDER=docker.io/library/rust:1.95-bookworm

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# Each root holds a binary, the libraries that it is linked with, and the authorities that a KV manager's or a
# collector's certificate may come from. The loader is at a fixed path.
RUN set -eu; \
    if [ ! -d dist ]; then \
        cargo build --locked --profile dist -p hermes-control-plane -p hermes-data-plane -p hermes; \
        mkdir dist; \
        cp target/dist/hermes target/dist/hermes-control-plane target/dist/hermes-data-plane dist/; \
        strip dist/*; \
    fi; \
    for name in hermes hermes-control-plane hermes-data-plane; do \
        root=/root-of/$name; \
        mkdir -p $root/usr/local/bin $root/etc/ssl/certs $root/tmp; \
        chmod 1777 $root/tmp; \
        cp dist/$name $root/usr/local/bin/; \
        cp -L /etc/ssl/certs/ca-certificates.crt $root/etc/ssl/certs/; \
        printf 'hermes:x:65532:65532::/:/sbin/nologin\n' > $root/etc/passwd; \
        printf 'hermes:x:65532:\n' > $root/etc/group; \
        for library in $(ldd dist/$name | grep -o '/[^ ]*'); do \
            mkdir -p "$root$(dirname "$library")"; \
            cp -L "$library" "$root$library"; \
        done; \
    done

# What the three have in common.
FROM scratch AS image
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/hermes-router/hermes" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532

FROM image AS control-plane
LABEL org.opencontainers.image.title="hermes-control-plane" \
      org.opencontainers.image.description="Knows which model server holds which prompt's KV cache, and how busy each is"
COPY --from=build /root-of/hermes-control-plane/ /
EXPOSE 7070 7071
ENTRYPOINT ["/usr/local/bin/hermes-control-plane"]

FROM image AS data-plane
LABEL org.opencontainers.image.title="hermes-data-plane" \
      org.opencontainers.image.description="Forwards OpenAI-style requests to the model server that answers them soonest"
COPY --from=build /root-of/hermes-data-plane/ /
EXPOSE 8000 8001
ENTRYPOINT ["/usr/local/bin/hermes-data-plane"]

FROM image AS hermes
LABEL org.opencontainers.image.title="hermes" \
      org.opencontainers.image.description="Both planes in one process, simulated model servers, load and trace replay"
COPY --from=build /root-of/hermes/ /
EXPOSE 8000 8100
ENTRYPOINT ["/usr/local/bin/hermes"]
