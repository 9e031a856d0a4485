# Builds turnhost and puts it into a small image with Python and Node.js, for handlers in either.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git nodejs python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/turnhost /usr/local/bin/turnhost
COPY handlers /usr/local/share/turnhost/handlers
WORKDIR /workspace
EXPOSE 8080
# Reached from outside the container, so it wants a token: docker run -e TURNHOST_TOKEN=… -p 8080:8080 …
ENTRYPOINT ["turnhost"]
CMD ["serve", "--handler", "/usr/local/share/turnhost/handlers/echo.py", "--host", "0.0.0.0"]
