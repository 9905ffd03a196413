//! What looks wrong in a result. Only warnings: nothing here makes a rendering fail.

use super::Variables;

/// An id that was written down where the new image's belongs: today's factory has such templates, whose results
/// ignore the image that was just built.
pub(super) fn warnings(text: &str, variables: &Variables) -> Vec<String> {
    let image = variables.image_id();
    if !image.is_empty() && text.contains(image) {
        return Vec::new();
    }
    let found = text.lines().enumerate().find_map(|(at, line)| uuid_in(line).map(|uuid| (at + 1, uuid)));
    let warning = |(line, uuid)| {
        format!("line {line} names {uuid}, and the new image's id is nowhere: use {{{{ result_img_id }}}} for it")
    };
    found.map(warning).into_iter().collect()
}

/// The first text in UUID syntax that stands alone.
fn uuid_in(line: &str) -> Option<&str> {
    let bytes = line.as_bytes();
    let whole = |at: usize| !bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    (0..bytes.len().saturating_sub(35)).find_map(|at| {
        let is_uuid = bytes[at..at + 36].iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        let alone = (at == 0 || whole(at - 1)) && whole(at + 36);
        (is_uuid && alone).then(|| &line[at..at + 36])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_coded_id_is_warned_of_only_where_the_new_one_is_missing() {
        let variables = Variables::new("11111111-2222-3333-4444-555555555555");
        let stale = "image: 0a1b2c3d-0000-4000-8000-0123456789ab\n";
        insta::assert_debug_snapshot!(warnings(stale, &variables), @r#"
        [
            "line 1 names 0a1b2c3d-0000-4000-8000-0123456789ab, and the new image's id is nowhere: use {{ result_img_id }} for it",
        ]
        "#);
        assert!(warnings(&format!("{stale}new: 11111111-2222-3333-4444-555555555555"), &variables).is_empty());
        assert!(warnings("x0a1b2c3d-0000-4000-8000-0123456789ab é", &variables).is_empty());
    }
}
