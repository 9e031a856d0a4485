//! The one key of `dari.yml` that a running server needs: `instructions.system`.
//!
//! Not a YAML reader. It knows the block form and the flow form of that key, quotes and comments, and takes anything
//! it does not know for "no such key", because there is a next place to look.

/// Most lines that the flow form is read over.
const LONGEST_FLOW: usize = 100;

/// The value of `instructions.system`.
pub(super) fn system(manifest: &str) -> Option<String> {
    let mut lines = manifest.lines();
    let rest = lines.by_ref().find_map(|line| {
        let (key, rest) = entry(line)?;
        (!line.starts_with([' ', '\t']) && key == "instructions").then_some(rest)
    })?;
    match rest.strip_prefix('{') {
        Some(flow) => in_flow(flow, lines),
        None if rest.is_empty() => in_block(lines),
        None => None,
    }
}

/// Among the indented lines below `instructions:`.
fn in_block<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut indent = None;
    for line in lines {
        let content = line.trim_start();
        if without_comment(content).is_empty() {
            continue;
        }
        let depth = line.len() - content.len();
        let siblings = *indent.get_or_insert(depth);
        if depth == 0 || depth < siblings {
            return None;
        }
        if let Some(("system", value)) = entry(line)
            && depth == siblings
        {
            return scalar(value);
        }
    }
    None
}

/// Between the braces, which may close on a later line.
fn in_flow<'a>(first: &'a str, more: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut text = first.to_owned();
    // A brace that is never closed must not cost a look at the whole file for each of its lines.
    for line in more.take(LONGEST_FLOW) {
        if members(&text).is_some() {
            break;
        }
        text.push(' ');
        text.push_str(without_comment(line));
    }
    let members = members(&text)?;
    members.into_iter().find_map(|member| match entry(member)? {
        ("system", value) => scalar(value),
        _ => None,
    })
}

/// The members up to the closing brace; `None` if there is none.
fn members(flow: &str) -> Option<Vec<&str>> {
    let mut members = Vec::new();
    let mut start = 0;
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    let mut before = '{';
    for (at, c) in flow.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == Some('"') => escaped = true,
            _ if quote == Some(c) => quote = None,
            _ if quote.is_some() => {}
            // A quote inside a plain word, as in `don't`, opens nothing.
            '"' | '\'' if matches!(before, ':' | ',' | '{' | '[') => quote = Some(c),
            '{' | '[' => depth += 1,
            ',' if depth == 0 => {
                members.push(&flow[start..at]);
                start = at + 1;
            }
            '}' if depth == 0 => {
                members.push(&flow[start..at]);
                return Some(members);
            }
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    None
}

/// Key and value of `key: value`, the key without quotes, the value without comment.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    if !value.is_empty() && !value.starts_with([' ', '\t', '"', '\'']) {
        return None;
    }
    let key = key.trim();
    let quoted = |quote: char| key.strip_prefix(quote)?.strip_suffix(quote);
    Some((quoted('"').or_else(|| quoted('\'')).unwrap_or(key), without_comment(value.trim())))
}

/// The text before a comment: a `#` at the start or after a blank, outside quotes.
fn without_comment(text: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return text[..at].trim(),
            (None, '"' | '\'') if before.is_whitespace() || matches!(before, '{' | ',' | ':' | '[') => quote = Some(c),
            (Some(open), _) if open == c && !(c == '"' && before == '\\') => quote = None,
            _ => {}
        }
        before = c;
    }
    text.trim()
}

/// The text of a scalar on one line. An anchor, a tag or a block of text is no file name.
fn scalar(value: &str) -> Option<String> {
    let text = if value.starts_with('"') {
        serde_json::from_str(value).ok()?
    } else if let Some(inner) = value.strip_prefix('\'') {
        inner.strip_suffix('\'')?.replace("''", "'")
    } else if value.starts_with(['|', '>', '&', '*', '!', '{', '[']) || matches!(value, "null" | "~") {
        return None;
    } else {
        value.to_owned()
    };
    Some(text).filter(|text: &String| !text.trim().is_empty())
}
