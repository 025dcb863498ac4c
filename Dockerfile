FROM caddy:2.11.9-builder AS builder
COPY . /connreuse
RUN xcaddy build v2.11.9 --with github.com/caddy-connreuse/connreuse@v0.0.0=/connreuse

FROM caddy:2.11.9
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
