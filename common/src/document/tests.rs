use super::*;
use crate::ports::PortSpec;
use proptest::prelude::*;
use std::time::Duration;

fn report<T: std::fmt::Debug>(source: &str, body: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> String {
    read("server.toml", source, body).unwrap_err().to_string()
}

#[test]
fn every_type_is_read_with_its_place() {
    let source = r#"
name = "office"
ports = "22,80"
list = ["a", "b"]
rate = 1_000
hex = 0xff
on = true
every = "1h30m"
level = "high"
labels = { team = "shop", tier = "1" }
inner = { x = 1 }

[[block]]
x = 1
[[block]]
x = 2

[segment.pci]
x = 3
[segment.office]
x = 4
"#;
    let result = read("x.toml", source, |root| {
        root.require(&["name", "ports"]);
        let name = root.string("name")?;
        assert_eq!(source[name.span.clone()], *"\"office\"");
        assert_eq!(root.parse::<PortSpec>("ports")?.to_string(), "22,80");
        assert_eq!(root.strings("list")?.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(root.integer("rate", 1..=5000u32)?.value, 1000);
        assert_eq!(root.integer("hex", 0..=255u8)?.value, 255);
        assert!(root.boolean("on")?.value);
        assert_eq!(
            root.duration("every", Duration::ZERO..=Duration::from_secs(86_400))?.value,
            Duration::from_secs(5400)
        );
        assert_eq!(root.choice("level", &[("low", 0), ("high", 1)])?.value, 1);
        let labels = root.string_map("labels")?;
        assert_eq!(labels[1].0.as_str(), "tier");
        assert_eq!(labels[1].1.as_str(), "1");
        assert_eq!(root.table("inner")?.integer("x", 0..=9i64)?.value, 1);
        let blocks = root.tables("block");
        assert_eq!(blocks.len(), 2);
        for (i, mut block) in blocks.into_iter().enumerate() {
            assert_eq!(block.path(), format!("block[{}]", i + 1));
            assert_eq!(block.integer("x", 0..=9usize)?.value, i + 1);
        }
        let segments = root.named_tables("segment");
        assert_eq!(segments[0].0.as_str(), "office");
        for (_, mut segment) in segments {
            segment.integer("x", 0..=9u8)?;
        }
        assert!(!root.has("absent"));
        assert_eq!(root.string("absent"), None);
        assert!(root.tables("absent").is_empty());
        Some(name.value)
    });
    assert_eq!(result.unwrap_or_else(|mistakes| panic!("{mistakes}")), "office");
}

#[test]
fn a_report_shows_the_line_and_underlines_the_fault() {
    let text = report("[web]\nport  = 99999   # too high\nprot = 1\n", |root| {
        let mut web = root.table("web")?;
        web.integer("port", 1..=65_535u16)
    });
    assert_eq!(
        text,
        "error: `port` is out of range\n \
         --> server.toml:2:9\n  \
           |\n\
         2 | port  = 99999   # too high\n  \
           |         ^^^^^\n  \
           = hint: it must be from 1 to 65535\n\
         \n\
         error: unknown key `prot` in `web`\n \
         --> server.toml:3:1\n  \
           |\n\
         3 | prot = 1\n  \
           | ^^^^\n  \
           = hint: did you mean `port`? the keys here are `port`\n\
         \n\
         server.toml: 2 mistakes"
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let source =
        "a = 1\nb = \"x\"\nc = [1, \"y\", true]\nd = \"soon\"\ne = 30\nf = \"up\"\n[g]\n[[h]]\n[i]\n";
    let result = read("x.toml", source, |root| {
        root.require(&["z"]);
        root.duration("e", Duration::ZERO..=Duration::MAX);
        root.duration("d", Duration::ZERO..=Duration::MAX);
        root.strings("c");
        root.integer("b", 0..=1u8);
        root.string("a");
        root.choice("f", &[("left", 0), ("right", 1)]);
        root.boolean("g");
        root.table("h");
        root.tables("i");
        Some(())
    });
    let mistakes = result.unwrap_err();
    let found: Vec<_> = mistakes.mistakes.iter().map(|m| (m.line, m.column, m.message.as_str())).collect();
    assert_eq!(
        found,
        [
            (1, 1, "the file has no `z`"),
            (1, 5, "`a` must be a string, not an integer"),
            (2, 5, "`b` must be a whole number from 0 to 1, not a string"),
            (3, 6, "`c` must be a string, not an integer"),
            (3, 14, "`c` must be a string, not a boolean"),
            (4, 5, "not a duration: a number must come first"),
            (5, 5, "`e` must be a string such as \"30s\", not an integer"),
            (6, 5, "`f` has no such value"),
            (7, 1, "`g` must be true or false, not a table"),
            (8, 1, "`h` must be a table, not an array"),
            (9, 1, "`i` must be a list of tables, not a table"),
        ]
    );
    assert!(mistakes.to_string().contains("hint: write e = \"30s\" for seconds"));
    assert!(mistakes.to_string().contains("hint: one of \"left\", \"right\""));
    assert!(mistakes.to_string().contains("hint: begin each with [[i]]"));
}

#[test]
fn broken_syntax_is_reported_with_what_else_is_wrong() {
    let source = "a = \nb = 5\nc = \"open\nd = true\n";
    let text = report(source, |root| {
        root.require(&["z"]);
        root.string("a");
        root.string("b");
        root.string("c");
        root.boolean("d");
        Some(())
    });
    assert!(text.contains("server.toml:1:"), "{text}");
    assert!(text.contains("server.toml:3:"), "{text}");
    assert!(text.contains("`b` must be a string"), "{text}");
    assert!(!text.contains("`z`"), "{text}");
    assert!(!text.contains("`a` must"), "{text}");
}

#[test]
fn duplicate_keys_are_mistakes() {
    let text = report("a = 1\na = 2\n", |root| root.integer("a", 0..=9u8));
    assert!(text.contains("server.toml:2:1"), "{text}");
}

#[test]
fn a_piece_of_a_string_is_underlined_where_its_place_is_known() {
    for (source, column) in [
        ("p = \"22,80-70\"", 9),
        ("p = '22,80-70'", 9),
        ("p = \"\\u0032\\u0032,80-70\"", 5),
        ("p = \"\"\"22,80-70\"\"\"", 5),
    ] {
        let mistakes = read("x", source, |root| root.parse::<PortSpec>("p")).unwrap_err();
        assert_eq!(mistakes.mistakes[0].column, column, "{source}");
    }
}

#[test]
fn a_table_that_lacks_a_key_is_named() {
    let text = report("x = 1\n[scope]\n", |root| {
        root.integer("x", 0..=1u8);
        root.table("scope")?.require(&["allow"]);
        Some(())
    });
    assert!(text.contains("`scope` has no `allow`") && text.contains("server.toml:2:1"), "{text}");
}

#[test]
fn reports_are_bounded_and_harmless() {
    let many: String = (0..1000).map(|i| format!("k{i} = 1\n")).collect();
    let mistakes = read("x", &many, |_| Some(())).unwrap_err();
    assert_eq!(mistakes.mistakes.len(), MAX_MISTAKES);
    assert_eq!(mistakes.omitted, 800);
    assert!(mistakes.to_string().ends_with("1000 mistakes, of which the first 200 are shown"));

    let long = format!("key = \"{}\" # \u{7}\n", "x".repeat(9000));
    let text = report(&long, |root| root.integer("key", 0..=1u8));
    assert!(text.len() < 800 && !text.contains('\u{7}'), "{text}");

    let late = format!("a = [{} 1]\n", "\"x\", ".repeat(500));
    let text = report(&late, |root| root.strings("a"));
    assert!(text.contains("\"x\",  1]") && text.len() < 800, "{text}");

    let huge = "#".repeat(MAX_FILE + 1);
    assert!(report(&huge, |_| Some(())).contains("limit"));

    assert!(report("", |_| None::<()>).contains("missing"));
}

#[test]
fn columns_count_characters() {
    let mistakes = read("x", "\"ключ\" = 1 # ок\na = 'é' \n", |root| {
        root.integer("a", 0..=1u8);
        Some(())
    })
    .unwrap_err();
    assert_eq!((mistakes.mistakes[0].line, mistakes.mistakes[0].column), (1, 1));
    assert_eq!((mistakes.mistakes[1].line, mistakes.mistakes[1].column), (2, 5));
    assert!(mistakes.to_string().contains("    ^^^\n"), "{mistakes}");
}

#[test]
fn durations_read_and_print() {
    for (text, millis) in [
        ("500ms", 500),
        ("30s", 30_000),
        ("1h30m", 5_400_000),
        ("14d", 14 * 86_400_000),
        ("2w", 14 * 86_400_000),
        ("0s", 0),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "5x",
        "5 s",
        "-5s",
        "30m1h",
        "1h1h",
        "1.5h",
        "99999999999999999999s",
        "9999999999999999w",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    assert_eq!(duration_text(Duration::from_secs(5400)), "1h30m");
    assert_eq!(duration_text(Duration::ZERO), "0s");
}

#[test]
fn sizes_read_and_print() {
    for (text, bytes) in [
        ("0B", 0),
        ("512B", 512),
        ("8KiB", 8192),
        ("64MiB", 64 << 20),
        ("1GiB", 1 << 30),
        ("1024MiB", 1 << 30),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in
        ["", "5", "MiB", "5MB", "5 MiB", "-5MiB", "1.5GiB", "5gib", "99999999999999999999B", "99999999TiB"]
    {
        assert!(parse_size(text).is_err(), "{text}");
    }
    assert_eq!((size_text(1 << 30), size_text(1025)), ("1GiB".to_owned(), "1025B".to_owned()));
    assert_eq!((size_text(1536 << 20), size_text(0)), ("1536MiB".to_owned(), "0B".to_owned()));
    let text = report("[spool]\na = \"7MiB\"\nb = 7\nc = \"8MB\"\n", |root| {
        let mut spool = root.table("spool")?;
        let sizes = ["a", "b", "c"].map(|key| spool.size(key, 8 << 20..=1 << 30));
        sizes.into_iter().flatten().next()
    });
    for part in [
        "hint: it must be from 8MiB to 1GiB",
        "`b` must be a string such as \"64MiB\", not an integer",
        "hint: write b = \"7B\" for bytes",
        "not a size: unknown unit",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

proptest! {
    #[test]
    fn a_printed_size_reads_back(bytes: u64) {
        prop_assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
    }

    #[test]
    fn a_printed_duration_reads_back(millis: u64) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
    }

    #[test]
    fn any_file_is_read_or_refused(source in "([a-z]{1,3} ?= ?|\\[+[a-z]\\]+|\"[^\"]*\"|[0-9]{1,4}|\\PC|\n|\r\n|\t){0,30}") {
        let (_, mistakes) = read_with("x", &source, |root| {
            for key in ["a", "b", "c"] {
                root.string(key);
                root.strings(key);
                root.integer(key, 0..=9u8);
                root.duration(key, Duration::ZERO..=Duration::MAX);
                root.size(key, 0..=u64::MAX);
                root.tables(key);
                root.named_tables(key);
            }
            Some(())
        });
        let text = mistakes.to_string();
        prop_assert!(text.len() < 400_000);
        for mistake in &mistakes.mistakes {
            prop_assert!(mistake.line >= 1 && mistake.column >= 1);
        }
    }
}

#[test]
fn a_list_may_mix_strings_and_tables() {
    let source = "targets = [\"10.0.0.1\", { file = \"web.json\" }, 5]\n";
    let (seen, mistakes) = read_with("x", source, |root| {
        let items = root.items("targets", "[\"10.0.0.1\"]")?;
        let seen = items.into_iter().map(|item| match item {
            Item::Text(text) => text.value,
            Item::Table(mut table) => table.string("file").map_or(String::new(), |file| file.value),
        });
        Some(seen.collect::<Vec<_>>())
    });
    assert_eq!(seen.unwrap(), ["10.0.0.1", "web.json"]);
    let text = mistakes.to_string();
    assert!(text.contains("a list of strings and tables, not an integer") && text.contains(":1:"), "{text}");
}

#[test]
fn tables_that_say_the_same_are_the_same_line() {
    let line = |source: &str| {
        read("x", source, |root| {
            root.allow_unknown();
            Some(root.to_inline())
        })
        .unwrap()
    };
    let text = line("b = 0x10 # sixteen\na = [\"x\\u0007\\n\", 1.5, true]\n[c]\n\"d e\" = {}\n");
    assert_eq!(text, "{ a = [\"x\\u0007\\n\", 1.5, true], b = 16, c = { \"d e\" = {} } }");
    assert_eq!(
        text,
        line(&format!("{}\n", &text[2..text.len() - 2].replace(", b", "\nb").replace(", c", "\nc")))
    );
}

#[test]
fn every_string_is_seen_with_its_keys() {
    let mut seen = Vec::new();
    let source = "a = \"1\"\n[[b]]\nc = [\"2\", { d = \"3\" }]\n";
    let whole = read("x", source, |root| {
        root.allow_unknown();
        root.each_string(|keys, text| seen.push(format!("{}={}", keys.join("."), text.value)));
        Some(root.is_whole())
    });
    assert_eq!((seen.join(" ").as_str(), whole.unwrap()), ("a=1 b.c=2 b.c.d=3", true));
    assert!(!read_with("x", "a = \n", |root| Some(root.is_whole())).0.unwrap());
}
