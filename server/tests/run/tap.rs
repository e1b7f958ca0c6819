//! Looks at the HTTP/2 frames that come in from the server, for what the libraries do not tell: which came first.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const GOAWAY: u8 = 7;

/// The frames that came in so far.
#[derive(Clone, Default)]
pub struct Frames(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    kinds: Vec<u8>,
    header: Vec<u8>,
    payload_left: usize,
}

impl Frames {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().kinds.len()
    }

    /// The kinds of the frames after the first `skipped`: those that open, fill and end streams or the connection.
    pub fn since(&self, skipped: usize) -> Vec<u8> {
        let seen = self.0.lock().unwrap();
        let told = |kind: &u8| matches!(*kind, DATA | HEADERS | GOAWAY);
        seen.kinds.iter().skip(skipped).copied().filter(told).collect()
    }

    fn read(&self, mut bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        while let Some((first, rest)) = bytes.split_first() {
            if seen.payload_left > 0 {
                let skipped = seen.payload_left.min(bytes.len());
                seen.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            seen.header.push(*first);
            bytes = rest;
            // RFC 9113, 4.1: length (24 bits), type, flags, stream.
            if let [a, b, c, kind, _, _, _, _, _] = seen.header[..] {
                seen.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                seen.kinds.push(kind);
                seen.header.clear();
            }
        }
    }
}

/// A connection whose incoming frames are noted.
pub struct Tap<T> {
    inner: T,
    frames: Frames,
}

impl<T> Tap<T> {
    pub fn new(inner: T) -> (Self, Frames) {
        let frames = Frames::default();
        (Self { inner, frames: frames.clone() }, frames)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.frames.read(buffer.filled().get(before..).unwrap_or_default());
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
