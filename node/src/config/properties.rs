//! Java's properties files (protocol reference §7.1), with the line of every entry.
//!
//! Keys and values are trimmed, as ZooKeeper does. The order is kept, and duplicates are kept too: the last one wins, but
//! whoever reads the file deserves to be told.

/// One `key=value`, in any of the forms that Java allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line on which it begins, counted from 1.
    pub line: usize,
    /// The key.
    pub key: String,
    /// The value; empty when there is none.
    pub value: String,
}

/// Why a file is no properties file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\\u must be followed by four hexadecimal digits")]
pub struct MalformedEscape {
    /// The line on which the entry begins, counted from 1.
    pub line: usize,
}

/// Reads a file's bytes (ISO-8859-1, as Java reads it).
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, MalformedEscape> {
    let mut entries = Vec::new();
    let mut lines = natural_lines(bytes);
    while let Some((line, text)) = lines.next() {
        let text = text.trim_start_matches(BLANK);
        if text.is_empty() || text.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = text.to_owned();
        while logical
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'\\')
            .count()
            % 2
            == 1
        {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(BLANK));
        }
        let (key, value) = split(&logical);
        let unescape = |text: &str| unescape(text).ok_or(MalformedEscape { line });
        entries.push(Entry {
            line,
            key: unescape(key)?.trim().to_owned(),
            value: unescape(value)?.trim().to_owned(),
        });
    }
    Ok(entries)
}

/// White space within a line.
const BLANK: [char; 3] = [' ', '\t', '\x0c'];

fn natural_lines(bytes: &[u8]) -> impl Iterator<Item = (usize, String)> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    lines
        .into_iter()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Splits at the first unescaped separator: `=`, `:` or white space, with white space around it.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || BLANK.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANK);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANK))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => {}
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let valid =
                    digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| valid)?;
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
        }
    }
    Some(out)
}

/// The bytes of a line that [`parse`] reads as this entry.
#[must_use]
pub fn line_of(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for c in key.chars().chain(['=']).chain(value.chars()) {
        match c {
            '\\' => out.extend(b"\\\\"),
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            c => match u8::try_from(c) {
                Ok(byte) => out.push(byte),
                Err(_) => out.extend(format!("\\u{:04x}", u32::from(c)).bytes()),
            },
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> (String, String) {
        let mut entries = parse(line.as_bytes()).unwrap();
        assert_eq!(entries.len(), 1, "{line:?}");
        let entry = entries.remove(0);
        (entry.key, entry.value)
    }

    #[test]
    fn keys_and_values_are_separated_as_in_java() {
        for (line, key, value) in [
            ("tickTime=2000", "tickTime", "2000"),
            ("tickTime 2000", "tickTime", "2000"),
            ("\t tickTime\t:  2000  ", "tickTime", "2000"),
            (
                "server.1:localhost:2888:3888:observer",
                "server.1",
                "localhost:2888:3888:observer",
            ),
            ("server.1=h:2888:3888;2181", "server.1", "h:2888:3888;2181"),
            ("server.1 h:2888:3888", "server.1", "h:2888:3888"),
            ("a:b=c", "a", "b=c"),
            ("a = = b", "a", "= b"),
            ("a\\:b\\=c=d", "a:b=c", "d"),
            ("path=c:\\\\data", "path", "c:\\data"),
            ("path=c:\\data", "path", "c:data"),
            ("a=b # no comment", "a", "b # no comment"),
            ("alone", "alone", ""),
            ("a=\\u0041\\tb", "a", "A\tb"),
            ("a=b\\\n    c\\\n  d", "a", "bcd"),
            ("a=b\\\\", "a", "b\\"),
            ("a=b\\", "a", "b"),
        ] {
            assert_eq!(one(line), (key.to_owned(), value.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn lines_are_counted_over_comments_continuations_and_any_line_end() {
        let entries = parse(b"# one\r\n\r\n! two=2\ra=1\\\n 2\nb=\xe9\n").unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.line, e.key.as_str(), e.value.as_str()))
            .collect();
        assert_eq!(seen, [(4, "a", "12"), (6, "b", "\u{e9}")]);
    }

    #[test]
    fn a_malformed_escape_names_its_line() {
        assert_eq!(parse(b"\na=\\u00g1"), Err(MalformedEscape { line: 2 }));
    }

    #[test]
    fn a_written_line_is_read_as_it_was() {
        for (key, value) in [
            ("a", "super:x=y"),
            ("path", "c:\\data"),
            ("b", "\u{e9}\u{20ac}"),
            ("c", ""),
        ] {
            assert_eq!(
                parse(&line_of(key, value)).unwrap()[0],
                Entry {
                    line: 1,
                    key: key.into(),
                    value: value.into()
                }
            );
        }
    }
}
