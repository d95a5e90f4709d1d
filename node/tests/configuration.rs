//! `docs/configuration.md` says what the server's own table of keys says. `UPDATE_EXPECT=1` writes it anew.

use std::fmt::Write as _;

use expect_test::expect_file;
use node::config::keys::{FAMILIES, KEYS, Key, Support};

#[test]
fn the_table_of_keys_is_fresh() {
    let mut text = INTRODUCTION.to_owned();
    section(&mut text, USED, |support| support == Support::Used);
    section(&mut text, NOT_YET, |support| support == Support::NotYet);
    section(&mut text, REFUSED, |support| support == Support::Refused);
    text.push_str(MEANINGLESS);
    for key in KEYS {
        if let Support::Meaningless(why) = key.support {
            row(&mut text, &format!("`{}`", key.name), why);
        }
    }
    text.push_str(FAMILIES_INTRODUCTION);
    for (prefix, support) in FAMILIES {
        let outcome = match support {
            Support::Used => "used",
            Support::NotYet => "not yet: a warning",
            Support::Refused => "not yet: an error",
            Support::Meaningless(why) => why,
        };
        row(&mut text, &format!("`{prefix}…`"), outcome);
    }
    expect_file!["../../docs/configuration.md"].assert_eq(&text);
}

fn section(text: &mut String, introduction: &str, belongs: impl Fn(Support) -> bool) {
    text.push_str(introduction);
    text.push_str("\n| key | default | allowed | meaning |\n|---|---|---|---|\n");
    for key in KEYS.iter().filter(|key| belongs(key.support)) {
        let Key {
            name,
            default,
            unit,
            allowed,
            meaning,
            support: _,
        } = key;
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        writeln!(
            text,
            "| `{name}` | {default} | {} | {meaning} |",
            allowed.describe(unit)
        )
        .expect("a string takes everything");
    }
}

fn row(text: &mut String, first: &str, second: &str) {
    writeln!(text, "| {first} | {second} |").expect("a string takes everything");
}

const INTRODUCTION: &str = "\
# Configuration: every key of `zoo.cfg`

Made from the server's own table (`node/src/config/keys.rs`) by a test; `UPDATE_EXPECT=1 cargo test -p node --test
configuration` writes it anew.

`zoo.cfg` is a Java properties file: `=`, `:` or a blank between key and value, `#` before a comment. Each key may be
written with or without `zookeeper.` before it, so what Apache takes as a Java system property stands in the file too.
Everything wrong in it is reported at once, with file and line; then the server ends with exit code 2. An unknown key is
a warning that names it, and the one that was probably meant.

The membership is not in the tables: `server.N=host:2888:3888[:participant|:observer][;[address:]2181]`, `group.N=a:b:c`
and `weight.N=n`, in `zoo.cfg` or in the file that `dynamicConfigFile` names. With `serve ZOO_CFG --home DIR` the server keeps
it in `DIR/conf`, see [operations.md](operations.md#servers-by-hand).
";

const USED: &str = "\n## Used\n";

const NOT_YET: &str = "
## Not yet

The server goes on without them, with a warning wherever one is set to something else than its default.
";

const REFUSED: &str = "
## Refused

Not there yet, and going on without would be unsafe or surprising: asking for one is an error.
";

const MEANINGLESS: &str = "
## Without a meaning here

A note in the log, nothing else.

| key | why |
|---|---|
";

const FAMILIES_INTRODUCTION: &str = "
## Families

Keys that are not listed and begin like this:

| keys | here |
|---|---|
";
