//! The text of an HTML page, with its headings marked as in Markdown. Not a parser: good enough to find words in.

/// The title and text of a page.
pub fn to_text(html: &str) -> (Option<String>, String) {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        page.text(&rest[..open]);
        rest = page.tag(&rest[open..]);
    }
    page.text(rest);
    let title = page.title.map(|title| squeeze(&title)).filter(|title| !title.is_empty());
    (title, page.out)
}

#[derive(Default)]
struct Page {
    out: String,
    title: Option<String>,
    in_title: bool,
}

impl Page {
    fn text(&mut self, text: &str) {
        let text = decode(text);
        if self.in_title {
            self.title.get_or_insert_default().push_str(&text);
            return;
        }
        let squeezed = squeeze(&text);
        if squeezed.is_empty() {
            return;
        }
        if !self.out.is_empty() && !self.out.ends_with(char::is_whitespace) && text.starts_with(char::is_whitespace) {
            self.out.push(' ');
        }
        self.out.push_str(&squeezed);
        if text.ends_with(char::is_whitespace) {
            self.out.push(' ');
        }
    }

    /// Takes in a tag or comment at the start of `rest` and says what follows it.
    fn tag<'a>(&mut self, rest: &'a str) -> &'a str {
        if let Some(comment) = rest.strip_prefix("<!--") {
            return comment.find("-->").map_or("", |end| &comment[end + 3..]);
        }
        let name = rest[1..].trim_start_matches('/');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!' || c == '?') {
            self.text("<");
            return &rest[1..];
        }
        let closing = rest.starts_with("</");
        let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("").to_ascii_lowercase();
        let after = tag_end(rest);
        match name.as_str() {
            "script" | "style" | "noscript" | "template" | "svg" if !closing => skip_element(after, &name),
            "title" => {
                self.in_title = !closing && self.title.is_none();
                after
            }
            _ => {
                self.mark(&name, closing);
                after
            }
        }
    }

    fn mark(&mut self, name: &str, closing: bool) {
        match name {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.paragraph();
                if !closing {
                    let level = usize::from(name.as_bytes()[1] - b'0');
                    self.out.push_str(&"#".repeat(level));
                    self.out.push(' ');
                }
            }
            "p" | "div" | "section" | "article" | "header" | "footer" | "main" | "nav" | "table" | "ul" | "ol"
            | "pre" | "blockquote" | "body" => self.paragraph(),
            "br" | "tr" | "dt" | "dd" => self.line(),
            "li" if !closing => {
                self.line();
                self.out.push_str("- ");
            }
            "td" | "th" if closing => self.out.push(' '),
            _ => {}
        }
    }

    fn line(&mut self) {
        self.out.truncate(self.out.trim_end().len());
        if !self.out.is_empty() {
            self.out.push('\n');
        }
    }

    fn paragraph(&mut self) {
        self.line();
        if !self.out.is_empty() {
            self.out.push('\n');
        }
    }
}

/// What follows the tag, whose attributes may hold `>` in quotes.
fn tag_end(rest: &str) -> &str {
    let mut quote = None;
    for (at, c) in rest.char_indices() {
        match (quote, c) {
            (None, '>') => return &rest[at + 1..],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    ""
}

fn skip_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</") {
        let start = from + at + 2;
        let matches = rest.get(start..start + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name));
        if matches {
            return tag_end(&rest[start..]);
        }
        from = start;
    }
    ""
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn decode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|b| b == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|c| *c != '\0');
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "mdash" => '—',
        "ndash" => '–',
        "hellip" => '…',
        "copy" => '©',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_text() {
        let (title, text) = to_text(
            "<!doctype html><html><head><title> The &amp; Page </title><style>p{}</style></head><body>\
             <h2 id=\"a>b\">Limits</h2><p>A <b>run</b> stops &lt;here&gt;.</p><ul><li>one<li>two</ul>\
             <script>if (a < b) {}</script><!-- <p>no</p> --><p>R&#233;sum&#xe9; 1 < 2</p></body></html>",
        );
        assert_eq!(title.as_deref(), Some("The & Page"));
        assert_eq!(text.trim(), "## Limits\n\nA run stops <here>.\n- one\n- two\n\nRésumé 1 < 2");
    }

    #[test]
    fn broken_pages_end() {
        for html in ["<", "<p", "<script>", "<!--", "</", "&", "&#xffffffff;", "<a href=\"x", "a<é>b", "</scr"] {
            to_text(html);
        }
        assert_eq!(to_text("&nope; &").1, "&nope; &");
    }
}
