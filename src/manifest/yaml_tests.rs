//! What the reader of YAML takes, refuses and suggests.

use super::*;

fn read(text: &str) -> (Option<Value>, Vec<Fault>) {
    let source = Source::new("build-vars.yml", text);
    let mut faults = Vec::new();
    let node = load(&source, &mut faults);
    (node.map(|node| node.value()), faults)
}

fn good(text: &str) -> String {
    let (value, faults) = read(text);
    assert!(faults.is_empty(), "{text:?}: {faults:?}");
    value.expect("read").canonical()
}

fn shown(text: &str) -> String {
    read(text).1.iter().map(|fault| fault.render("error")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_ansible_reads_is_read_the_same() {
    assert_eq!(good("\u{feff}\n\n---\r\na: yes\r\nb: 0644\r\n"), r#"{"a":true,"b":420,}"#);
    assert_eq!(good("a: 12:30:45\nb: 1_000\nc: '0644'\nd:\ne: ~\n"), r#"{"a":45045,"b":1000,"c":"0644","d":,"e":,}"#);
    assert_eq!(good("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\n"), r#"{"a":{"k":1,"l":2,},"b":{"k":1,"l":3,},}"#);
    assert_eq!(
        good("a: &x {k: 1}\nb: &y {k: 2, m: 4}\nc: {<<: [*x, *y]}\n").split_at(31).1,
        r#"},"c":{"k":1,"m":4,},}"#
    );
    assert_eq!(good("'<<': 1\n80: tcp\n"), r#"{"80":"tcp","<<":1,}"#);
    assert_eq!(good("a: !!str 12\nb: ! 12\nc: !unsafe x\nd: !!float 1\n"), r#"{"a":"12","b":"12","c":"x","d":1.0,}"#);
    assert_eq!(good(""), "");
    assert_eq!(good("# nothing\n"), "");
}

#[test]
fn a_missing_space_is_found_in_the_line_that_lacks_it() {
    let sample = "bundle:\n  name: bundle-my-bundle   # <-- Image name\n  properties:\n    img_os: Ubuntu\n    \
                  hw_cpu_max_sockets: 1\n    hw_rng_model :virtio     \n";
    insta::assert_snapshot!(shown(sample), @r#"
    error: `hw_rng_model :virtio` is no key with a value
      --> build-vars.yml:6:5
      |
    6 |     hw_rng_model :virtio
      |     ^^^^^^^^^^^^^^^^^^^^ did you mean `hw_rng_model: virtio`?
      |
      = a key is followed by `:` and a space
    "#);
    insta::assert_snapshot!(shown("bundle:\n  name:web\n  img_base: x\n"), @r#"
    error: `name:web` is no key with a value
      --> build-vars.yml:2:3
      |
    2 |   name:web
      |   ^^^^^^^^ did you mean `name: web`?
      |
      = a key is followed by `:` and a space
    "#);
}

#[test]
fn an_expression_without_quotes_is_told_to_take_them() {
    insta::assert_snapshot!(shown("a: {{ bundle.name }}\nb: 1\nb: 2\n"), @r#"
    error: a value that begins with `{{` must stand in quotes
      --> build-vars.yml:1:4
      |
    1 | a: {{ bundle.name }}
      |    ^^^^^^^^^^^^^^^^^ write `"{{ bundle.name }}"`
      |
      = without quotes, YAML takes `{` for the beginning of a map

    error: the key `b` stands twice
      --> build-vars.yml:3:1
      |
    3 | b: 2
      | ^
      |
      = it stands in line 2 before; keep one of the two
    "#);
    insta::assert_snapshot!(shown("a:\n  - x\n  - {{ bundle.name }}-{{ build.stamp }}  # name\n"), @r#"
    error: a value that begins with `{{` must stand in quotes
      --> build-vars.yml:3:5
      |
    3 |   - {{ bundle.name }}-{{ build.stamp }}  # name
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ write `"{{ bundle.name }}-{{ build.stamp }}"`
      |
      = without quotes, YAML takes `{` for the beginning of a map
    "#);
}

#[test]
fn everything_wrong_is_said_at_once() {
    insta::assert_snapshot!(
        shown("a: 1\na: 2\nyes: 3\nb: !vault x\nc: !!set {x}\nd: 99999999999999999999\n? [k]\n: v\n<<: 5\n"),
        @r#"
        error: the key `a` stands twice
          --> build-vars.yml:2:1
          |
        2 | a: 2
          | ^
          |
          = it stands in line 1 before; keep one of the two

        error: the key `yes` is read as true or false
          --> build-vars.yml:3:1
          |
        3 | yes: 3
          | ^^^
          |
          = write it in quotes: "yes"

        error: values encrypted with `!vault` can't be read
          --> build-vars.yml:4:4
          |
        4 | b: !vault x
          |    ^
          |
          = keep the secret in the daemon's configuration, and name it in the step's `secrets`

        error: the tag `!!set` is not known
          --> build-vars.yml:5:4
          |
        5 | c: !!set {x}
          |    ^^^^^^^
          |
          = take it away

        error: the number `99999999999999999999` does not fit 64 bits; write it in quotes to keep its digits
          --> build-vars.yml:6:4
          |
        6 | d: 99999999999999999999
          |    ^^^^^^^^^^^^^^^^^^^^
          |

        error: a key must be a text, not a list or map
          --> build-vars.yml:7:3
          |
        7 | ? [k]
          |   ^
          |

        error: `<<` takes a map or a list of maps
          --> build-vars.yml:9:1
          |
        9 | <<: 5
          | ^^
          |
        "#
    );
}

#[test]
fn no_document_makes_the_reader_large_slow_or_deep() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&["a", &level.to_string(), ": &a", &level.to_string(), " [", &list, "]\n"].concat());
    }
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 1000].join(","));
    let wide: String = (0..40_000).map(|number| format!("k{number}: 1\n")).collect();
    let message = |text: &str| read(text).1.first().map(|fault| fault.message.clone());
    assert_eq!(message(&bomb).as_deref(), Some("the document expands to more than 100000 nodes"));
    assert_eq!(message(&text).as_deref(), Some("the document expands to more than 4 MiB of text"));
    assert!(message(&"[".repeat(100_000)).is_some());
    assert!(message(&"- ".repeat(100_000)).is_some());
    assert!(message(&"a:\n".repeat(10)).is_some());
    assert_eq!(message("a: &a [*a]").as_deref(), Some("the alias stands inside of what it names"));
    assert_eq!(message("a: 1\n---\nb: 2\n").as_deref(), Some("a second document begins here"));
    assert_eq!(message("a: x\0y\n").as_deref(), Some("the character U+0000 can't stand in YAML"));
    assert_eq!(message(&wide), None);
    // In one line, where each place is looked up from the place before.
    let flat = format!("ü: [{}]\n", vec!["{ <<: { ä: 1 } }"; 10_000].join(", "));
    assert_eq!(message(&flat), None);
    let unquoted = read(&format!("ü: [{}]\n", vec!["{{ a }}"; 100_000].join(", "))).1;
    assert_eq!((unquoted.len(), unquoted[1].column), (MOST_FAULTS, 14));
    assert!(unquoted.iter().all(|fault| fault.hint.chars().count() < 1100), "nobody reads on");
    assert_eq!(read(&"a: 1\n".repeat(1000)).1.len(), MOST_FAULTS);
}
