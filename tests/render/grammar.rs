//! Templates from the accepted constructs; the same ones in every run.

pub(super) fn templates(count: usize) -> Vec<String> {
    let mut choice = Choice(0x9e37_79b9_7f4a_7c15);
    (0..count).map(|_| template(&mut choice)).collect()
}

struct Choice(u64);

impl Choice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }
}

fn template(choice: &mut Choice) -> String {
    let mut out = String::new();
    out += choice.of(&["", "", "", "", "", "#jinja2: lstrip_blocks: True\n", "#jinja2: trim_blocks: False\n"]);
    let macros = choice.below(4) == 0;
    if macros {
        let parameters = choice.of(&["a", "a, b=1", "a=name, b=a"]);
        out += &(block(choice, &format!("macro m({parameters})")) + "{{ a }}" + &statement(choice, 1));
        out += &block(choice, "endmacro");
    }
    for _ in 0..=choice.below(4) {
        out += &statement(choice, 2);
        if macros && choice.below(2) == 0 {
            let given = choice.of(&["1", "name, 2", "a=list", "users | map(attribute='name') | list", ""]);
            out = out + "{{ m(" + given + ") }}";
        }
    }
    out + choice.of(&["", "\n", "\n\n", "\r\n", " "])
}

fn block(choice: &mut Choice, tag: &str) -> String {
    let (open, close) = (choice.of(&["", "", "", "-", "+"]), choice.of(&["", "", "", "-", "+"]));
    format!("{{%{open} {tag} {close}%}}")
}

fn condition(choice: &mut Choice, word: &str, depth: usize) -> String {
    let tag = format!("{word} {}", truth(choice, depth));
    block(choice, &tag)
}

fn statement(choice: &mut Choice, depth: usize) -> String {
    match choice.below(if depth == 0 { 4 } else { 11 }) {
        0 => choice.of(&["text", " \n", "\n", "a: b\n", "\t- x\r\n", "# c\n", "{ x }"]).to_owned(),
        1 | 2 => {
            let (open, close) = (choice.of(&["", "", "-"]), choice.of(&["", "", "-"]));
            format!("{{{{{open} {} {close}}}}}", any(choice, 2))
        }
        3 => choice.of(&["{# c #}", "{#- c #}\n", "{# c -#} \n", "{# c #}\n"]).to_owned(),
        4 | 5 => {
            let mut out = condition(choice, "if", 2) + &statement(choice, depth - 1);
            if choice.below(2) == 0 {
                out += &(condition(choice, "elif", 1) + &statement(choice, depth - 1));
            }
            if choice.below(2) == 0 {
                out += &(block(choice, "else") + &statement(choice, depth - 1));
            }
            out + &block(choice, "endif")
        }
        6 => {
            let head = match choice.below(4) {
                0 => "for k, v in map.items()".to_owned(),
                1 => format!("for v in {} if {}", list(choice, 1), truth(choice, 0)),
                _ => format!("for v in {}", list(choice, 1)),
            };
            let part = choice.of(&["index", "index0", "revindex", "first", "last", "length"]);
            let body = statement(choice, depth - 1);
            let inner = format!("{{{{ v }}}}{{{{ loop.{part} }}}}{body}");
            block(choice, &head) + &inner + &block(choice, "endfor")
        }
        7 => {
            let head = choice.of(&["set s", "set t | upper", "set s | trim | length"]);
            block(choice, head) + &statement(choice, depth - 1) + &block(choice, "endset") + "{{ s | default('-') }}"
        }
        8 => {
            let head =
                choice.of(&["filter upper", "filter indent(1) | trim", "with s = 1, name = name", "filter quote"]);
            let end = format!("end{}", head.split(' ').next().unwrap_or_default());
            block(choice, head) + &statement(choice, depth - 1) + &block(choice, &end)
        }
        9 => {
            let items = list(choice, 1);
            let body = choice.of(&["{% set _ = l.append(v) %}", "{{ l.extend([v, 1]) }}", "{{ l.insert(0, v) }}"]);
            format!("{{% set l = [] %}}{{% for v in {items} %}}{body}{{% endfor %}}{{{{ l }}}}")
        }
        _ => {
            let name = choice.of(&["s", "t", "name"]);
            let value = any(choice, 2);
            block(choice, &format!("set {name} = {value}")) + "{{ " + name + " }}"
        }
    }
}

fn any(choice: &mut Choice, depth: usize) -> String {
    match choice.below(5) {
        0 | 1 => text(choice, depth),
        2 => number(choice, depth),
        3 => truth(choice, depth),
        _ => list(choice, depth),
    }
}

fn text(choice: &mut Choice, depth: usize) -> String {
    if depth == 0 || choice.below(3) == 0 {
        let names = [
            "name",
            "empty",
            "spaced",
            "mixed",
            "quote",
            "lines",
            "lazy",
            "lazier",
            "accent",
            "bundle.name",
            "bundle.properties['img_os']",
            "users[0].name",
            "'lit'",
            "\"d'q\"",
            "nothing",
            "lazy_default",
            "s",
            "nope",
            "map.a",
            "result_img_id",
        ];
        return choice.of(&names).to_owned();
    }
    let inner = text(choice, depth - 1);
    match choice.below(9) {
        0 => format!("{inner} ~ {}", any(choice, depth - 1)),
        1 => {
            let filters = [
                "upper",
                "lower",
                "trim",
                "string",
                "reverse",
                "capitalize",
                "indent(2)",
                "quote",
                "title",
                "basename",
                "comment",
                "comment('c')",
                "b64encode",
                "to_json",
            ];
            format!("({inner}) | {}", choice.of(&filters))
        }
        2 => format!("({inner}) | default({})", text(choice, 0)),
        3 => format!("({inner}) | replace('e', {})", text(choice, 0)),
        4 => format!("{} | join({})", list(choice, depth - 1), text(choice, 0)),
        5 => format!("{inner} if {} else {}", truth(choice, depth - 1), text(choice, depth - 1)),
        6 => format!("({inner}).{}", choice.of(&["upper()", "lower()", "strip()", "replace('a', 'o')"])),
        7 => format!("({inner} or {})", text(choice, 0)),
        _ => format!("({inner} if {})", truth(choice, depth - 1)),
    }
}

fn number(choice: &mut Choice, depth: usize) -> String {
    if depth == 0 || choice.below(3) == 0 {
        let names = ["number", "negative", "zero", "1", "0", "ratio", "map.z", "users[1].uid", "lazy_number", "5"];
        return choice.of(&names).to_owned();
    }
    match choice.below(4) {
        0 => format!("{} {} {}", number(choice, depth - 1), choice.of(&["+", "-", "*"]), number(choice, 0)),
        1 => format!("({}) | int", any(choice, depth - 1)),
        2 => format!("({}) | length", list(choice, depth - 1)),
        _ => format!("({} | length)", text(choice, 0)),
    }
}

fn truth(choice: &mut Choice, depth: usize) -> String {
    if depth == 0 || choice.below(4) == 0 {
        return choice.of(&["yes", "no", "true", "empty", "list", "name", "zero", "lazy_true", "map"]).to_owned();
    }
    match choice.below(7) {
        0 => format!("not {}", truth(choice, depth - 1)),
        1 => format!("({} {} {})", truth(choice, depth - 1), choice.of(&["and", "or"]), truth(choice, depth - 1)),
        2 => {
            let tests = [
                "defined",
                "not defined",
                "none",
                "string",
                "number",
                "mapping",
                "sequence",
                "iterable",
                "truthy",
                "in(list)",
                "eq(1)",
                "sameas(none)",
                "lower",
            ];
            let test = choice.of(&tests);
            format!("({}) is {test}", any(choice, depth - 1))
        }
        3 => format!("{} in {}", text(choice, 0), list(choice, 0)),
        4 => format!("{} {} {}", number(choice, 0), choice.of(&["==", "<", ">=", "!="]), number(choice, 0)),
        5 => format!("({}) {} ({})", any(choice, depth - 1), choice.of(&["==", "!="]), any(choice, 0)),
        _ => format!("({}) | bool", text(choice, 0)),
    }
}

fn list(choice: &mut Choice, depth: usize) -> String {
    if depth == 0 || choice.below(3) == 0 {
        let names = ["list", "numbers", "repeated", "empty_list", "lazy_list", "none_list", "['x', 'y']", "map"];
        return choice.of(&names).to_owned();
    }
    match choice.below(8) {
        5 => {
            let filters = [
                "map('string')",
                "map('upper')",
                "map('default', 'x')",
                "map(attribute='name', default=1)",
                "select",
                "reject('none')",
                "select('string')",
                "flatten",
                "flatten(1)",
                "select('in', list)",
            ];
            format!("({}) | {} | list", list(choice, depth - 1), choice.of(&filters))
        }
        6 => {
            let filter = choice.of(&["union", "difference", "intersect"]);
            format!("({}) | {filter}({})", list(choice, depth - 1), list(choice, 0))
        }
        7 => choice
            .of(&["map | dictsort", "map | dict2items", "users | selectattr('shell', 'defined') | list"])
            .to_owned(),
        0 => format!("[{}, {}]", any(choice, depth - 1), any(choice, 0)),
        1 => format!("({}) | {}", list(choice, depth - 1), choice.of(&["sort", "unique", "reverse", "list"])),
        2 => format!("({} + {})", list(choice, depth - 1), list(choice, 0)),
        3 => format!("({}).split()", text(choice, 0)),
        _ => format!("{} | default([])", choice.of(&["nope", "list", "nope.x"])),
    }
}
