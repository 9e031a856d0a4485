//! How many bytes go over the sockets.
//!
//! Owns counting them, whatever the protocol: what is read of a request, and what its answer's body gives.

use crate::telemetry::metrics::{Transport, metrics};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use bytes::Bytes;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Counts an answer: one of known size at once, any other as it goes.
pub fn count(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = response.status();
    metrics().responded(status.as_u16());
    if let BodySize::Sized(bytes) = response.response().body().size() {
        metrics().sent(Transport::Http, bytes);
        return response;
    }
    if matches!(response.response().body().size(), BodySize::None) {
        return response;
    }
    let transport = if status == StatusCode::SWITCHING_PROTOCOLS { Transport::WebSocket } else { Transport::Http };
    response.map_body(|_, body| BoxBody::new(Counted { body, transport }))
}

struct Counted {
    body: BoxBody,
    transport: Transport,
}

impl MessageBody for Counted {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let piece = Pin::new(&mut this.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &piece {
            metrics().sent(this.transport, bytes.len() as u64);
        }
        piece
    }
}
