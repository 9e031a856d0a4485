//! Reads a request's body within a size and a time.
//!
//! Owns the three ways a body can fail. What is in it is the adapter's business.

use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

/// How much of a body that is too large is read away, so that its sender sees the answer and not a reset.
const READ_AWAY: usize = 64 << 20;
/// A sender that sends nothing for this long waits for the answer.
const SENDER_WAITS: Duration = Duration::from_secs(1);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than allowed, declared or counted.
    TooLarge,
    /// Not complete in time.
    TimedOut,
    /// The connection ended first.
    Cut,
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read(
    mut payload: web::Payload,
    declared: Option<u64>,
    limit: usize,
    within: Duration,
) -> Result<Bytes, BodyError> {
    let deadline = Instant::now() + within;
    if declared.is_some_and(|declared| declared > limit as u64) {
        read_away(&mut payload, deadline).await;
        return Err(BodyError::TooLarge);
    }
    // The declared length is the caller's word: only so much is reserved on it.
    let reserve = declared.map_or(0, |declared| usize::try_from(declared).unwrap_or(0).min(1 << 20));
    let mut whole: Option<Bytes> = None;
    let mut parts = BytesMut::new();
    loop {
        let next = tokio::time::timeout_at(deadline, payload.next()).await.map_err(|_| BodyError::TimedOut)?;
        let Some(chunk) = next.transpose().map_err(|_| BodyError::Cut)? else { break };
        if parts.len() + whole.as_ref().map_or(0, Bytes::len) + chunk.len() > limit {
            read_away(&mut payload, deadline).await;
            return Err(BodyError::TooLarge);
        }
        // Most bodies come in one piece: that one is not copied.
        if parts.is_empty() && whole.is_none() {
            whole = Some(chunk);
            continue;
        }
        if let Some(first) = whole.take() {
            parts.reserve(reserve.max(first.len() + chunk.len()));
            parts.extend_from_slice(&first);
        }
        parts.extend_from_slice(&chunk);
    }
    Ok(whole.unwrap_or_else(|| parts.freeze()))
}

async fn read_away(payload: &mut web::Payload, deadline: Instant) {
    let mut left = READ_AWAY;
    let pause = || deadline.min(Instant::now() + SENDER_WAITS);
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout_at(pause(), payload.next()).await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}
