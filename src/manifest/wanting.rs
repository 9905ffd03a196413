//! What is wrong with the files that stages read: missing ones, links that lead out, too many of them.

use super::budget::Exceeded;
use super::fault::{Fault, MOST_FAULTS, in_order};
use super::files::Problem;
use super::pipeline::PipelineFile;
use super::reader::Need;
use super::reading::Unbuildable;
use crate::domain::path::RepoPath;
use crate::domain::tree::TreeError;

/// Why a bundle can't be built, and whether that holds whatever else the repository has.
///
/// # Errors
/// When the tree itself failed.
pub(super) fn refusal(
    file: &PipelineFile,
    bundle: &RepoPath,
    need: &Need,
    problem: Problem,
) -> Result<(Unbuildable, bool), TreeError> {
    if let Problem::Tree(error @ TreeError::Broken { .. }) = problem {
        return Err(error);
    }
    let code = match &problem {
        Problem::Missing(_) => "missing-file",
        Problem::Link { .. } => "bad-link",
        Problem::Submodule(_) => "submodule",
        Problem::TooDeep(_) | Problem::TooMany(_) | Problem::Tree(_) => "too-large",
    };
    let lasting = !matches!(
        problem,
        Problem::TooMany(Exceeded::Entries | Exceeded::Bytes) | Problem::Tree(TreeError::TooMuch { .. })
    );
    let reason = problem.to_string();
    let source = need.source.as_deref().unwrap_or(&file.source);
    let fault = source.fault(need.span, code, format!("{reason}, for {bundle}"));
    let help = format!("the {} stage reads `{}`", need.stage, need.path);
    Ok((Unbuildable { reason, faults: vec![fault.with_help(help)] }, lasting))
}

/// All that is wrong, as one: the first is the reason, each that is said once is a fault.
pub(super) fn all_of(whys: Vec<Unbuildable>) -> Unbuildable {
    let mut reasons = whys.iter().map(|why| why.reason.clone()).collect::<Vec<_>>();
    reasons.dedup();
    let mut faults: Vec<Fault> = whys.into_iter().flat_map(|why| why.faults).collect();
    in_order(&mut faults);
    faults.dedup_by(|one, other| one.file == other.file && one.line == other.line && one.message == other.message);
    faults.truncate(MOST_FAULTS);
    let reason = match reasons.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => format!("{first}, and {} more", rest.len()),
        _ => reasons.pop().unwrap_or_default(),
    };
    Unbuildable { reason, faults }
}
