//! The one door from async code to libraries that block: git2, file trees, templates.

use tracing::Span;

/// Runs a closure on a thread where it may block, inside the caller's tracing span. A panic in it goes on here.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
