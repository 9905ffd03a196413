//! Reading logs that are long.

use super::super::LogLine;
use super::fixture::{Fixture, new};
use crate::domain::build::Outcome;
use crate::domain::id::BuildNo;
use crate::domain::pipeline::Stage;

const LINES: u64 = 40;
const LINE: usize = 60 * 1024;
/// What may be in memory of one reader.
const PAGE: usize = 128 * 1024;

fn size(page: &[LogLine]) -> usize {
    page.iter().map(|line| line.text.len()).sum()
}

/// A log of lines as long as they may be, alternately of two stages.
async fn long() -> (Fixture, BuildNo) {
    let fixture = Fixture::new();
    let number = fixture.started(new("images/a", "1")).await;
    let writer = fixture.store.log_writer(number);
    for n in 0..LINES {
        let stage = if n % 2 == 0 { Stage::Boot } else { Stage::Test };
        writer.line(Some(stage), None, &vec![b'x'; LINE]);
    }
    (fixture, number)
}

#[tokio::test]
async fn a_log_is_read_in_one_pass_and_little_of_it_at_a_time() {
    let (fixture, number) = long().await;
    fixture.finish(number, Outcome::Passed).await;
    let mut pages = fixture.store.log_pages(number, 1, None);
    let mut follower = fixture.store.follow_log(number, 3, Some(Stage::Boot)).await.expect("followed");
    let first = pages.next().await.expect("read").expect("lines");
    let followed = follower.next().await.expect("read").expect("lines");
    // Whoever would look for the log once more would not find it.
    std::fs::remove_file(fixture.state().join("builds/1/log")).expect("there");
    let mut numbers = Vec::new();
    let mut next = Some(first);
    while let Some(page) = next {
        assert!(size(&page) <= PAGE, "{} bytes at once", size(&page));
        numbers.extend(page.iter().map(|line| line.number));
        next = pages.next().await.expect("read");
    }
    assert!((1..=LINES).eq(numbers));
    let (mut numbers, mut next) = (Vec::new(), Some(followed));
    while let Some(page) = next {
        assert!(size(&page) <= PAGE, "{} bytes at once", size(&page));
        numbers.extend(page.iter().map(|line| line.number));
        next = follower.next().await.expect("read");
    }
    assert!((3..=LINES).step_by(2).eq(numbers));
}

#[tokio::test]
async fn a_log_is_stored_as_text_line_by_line() {
    let (fixture, number) = long().await;
    let text = |line: &LogLine| format!("{} {}\n", line.number, line.text.len());
    let blob = fixture.store.store_log_text(number, text).await.expect("stored");
    let mut kept = Vec::new();
    fixture.store.blobs().copy(blob.sha256, &mut kept).expect("right");
    let wanted: String = (1..=LINES).map(|n| format!("{n} {LINE}\n")).collect();
    assert_eq!(String::from_utf8(kept).expect("text"), wanted);
    let none = fixture.store.store_log_text(BuildNo(7), text).await.expect("stored");
    assert_eq!(none.size, 0, "a build without a log has an empty one");
}
