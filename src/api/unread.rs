//! A request whose body is not read to its end: its connection ends with the answer, and the answer arrives.
//!
//! Owns both. Left to itself the HTTP library reads the rest of a chunked body for as long as that takes, and closes
//! other connections at once: with bytes unread that is a reset, which may overtake the answer.

use super::hangup::Hangup;
use super::traffic;
use crate::telemetry::metrics::{Transport, metrics};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use bytes::Bytes;
use futures_util::Stream;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long the rest of a body is read away before its connection is cut.
const READ_AWAY: Duration = Duration::from_secs(2);

/// Serves a request; its body lives at least as long as its answer.
pub async fn serve(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let payload = match request.take_payload() {
        Payload::None => {
            return next.call(request).await.map(|response| traffic::count(response.map_into_boxed_body()));
        }
        payload => {
            let is_upgrade = request.headers().contains_key(header::UPGRADE);
            let transport = if is_upgrade { Transport::WebSocket } else { Transport::Http };
            Kept { payload: Rc::new(RefCell::new(payload)), transport }
        }
    };
    request.set_payload(Payload::Stream { payload: Box::pin(payload.clone()) });
    let hangup = request.conn_data::<Hangup>().cloned();
    let response = traffic::count(next.call(request).await?.map_into_boxed_body());
    // The bytes of a WebSocket are its connection's business.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    Ok(response.map_body(|_, body| BoxBody::new(Answer { body, payload, hangup })))
}

/// A body with two owners: whoever reads it, and the answer.
#[derive(Clone)]
struct Kept {
    payload: Rc<RefCell<Payload>>,
    transport: Transport,
}

impl Stream for Kept {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = Pin::new(&mut *self.payload.borrow_mut()).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &piece {
            metrics().received(self.transport, bytes.len());
        }
        piece
    }
}

struct Answer {
    body: BoxBody,
    payload: Kept,
    hangup: Option<Hangup>,
}

impl MessageBody for Answer {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // All that has come is in there. If more is due, the library has decided by now to close the connection.
        let mut cx = Context::from_waker(Waker::noop());
        let more_is_due = loop {
            match Pin::new(&mut self.payload).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => break false,
                Poll::Pending => break true,
            }
        };
        if more_is_due && let Some(hangup) = self.hangup.take() {
            actix_web::rt::spawn(async move { hangup.after_reading_away(READ_AWAY).await });
        }
    }
}
