//! Splits a document into passages of 800 to 1,200 bytes or so, along its headings and paragraphs.

use super::html;

/// A passage grows up to this size, in bytes.
const MAX: usize = 1_200;
/// A heading starts a new passage once the current one has this size.
const MIN: usize = 500;
const MAX_TITLE: usize = 200;

/// A document ready to be indexed.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// The page's title, the first heading, or the file's name without its extension.
    pub title: String,
    /// Its passages in order; the first is number 1.
    pub passages: Vec<Passage>,
}

/// A piece of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Passage {
    /// The heading that it stands under, or empty.
    pub heading: String,
    /// Its text.
    pub text: String,
}

/// Splits the file `path` with this content.
pub fn split(path: &str, content: &str) -> Document {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let content = content.trim_start_matches('\u{feff}');
    let (title, text) = match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => html::to_text(content),
        _ => (None, content.to_owned()),
    };
    let mut splitter = Splitter::default();
    for block in blocks(&text) {
        splitter.add(&block);
    }
    splitter.flush();
    let title = title.or(splitter.first_heading).unwrap_or_else(|| stem.to_owned());
    Document { title: head(&title, MAX_TITLE).to_owned(), passages: splitter.passages }
}

#[derive(Debug, PartialEq, Eq)]
struct Block {
    heading: Option<String>,
    text: String,
}

/// Paragraphs, headings and fenced code, each whole.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut fenced = false;
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.starts_with("```") || bare.starts_with("~~~") {
            fenced = !fenced;
        }
        match heading(bare).filter(|_| !fenced) {
            Some(heading) => {
                push(&mut found, &mut current, None);
                current.push_str(line);
                push(&mut found, &mut current, Some(heading));
            }
            None if bare.is_empty() && !fenced => push(&mut found, &mut current, None),
            None => {
                current.push_str(line);
                current.push('\n');
            }
        }
    }
    push(&mut found, &mut current, None);
    found
}

fn push(found: &mut Vec<Block>, current: &mut String, heading: Option<&str>) {
    let text = std::mem::take(current).trim_end().to_owned();
    if !text.trim().is_empty() {
        found.push(Block { heading: heading.map(str::to_owned), text });
    }
}

/// The text of a Markdown heading (`#` to `######`).
fn heading(line: &str) -> Option<&str> {
    let level = line.bytes().take_while(|b| *b == b'#').count();
    let text = line.get(level..)?.strip_prefix([' ', '\t'])?.trim().trim_end_matches('#').trim_end();
    ((1..=6).contains(&level) && !text.is_empty()).then_some(text)
}

#[derive(Default)]
struct Splitter {
    passages: Vec<Passage>,
    first_heading: Option<String>,
    /// The heading that the next block stands under.
    heading: String,
    /// The heading that the current passage started under.
    started: String,
    current: String,
}

impl Splitter {
    fn add(&mut self, block: &Block) {
        if let Some(heading) = &block.heading {
            self.first_heading.get_or_insert_with(|| heading.clone());
            if self.current.len() >= MIN {
                self.flush();
            }
            self.heading = head(heading, MAX_TITLE).to_owned();
        } else if self.current.len() + block.text.len() > MAX {
            self.flush();
        }
        for piece in pieces(&block.text) {
            if !self.current.is_empty() && self.current.len() + piece.len() > MAX {
                self.flush();
            }
            if self.current.is_empty() {
                self.started = self.heading.clone();
            } else {
                self.current.push_str("\n\n");
            }
            self.current.push_str(piece);
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.current).trim().to_owned();
        if !text.is_empty() {
            self.passages.push(Passage { heading: std::mem::take(&mut self.started), text });
        }
    }
}

/// Cuts a block that is too long at the end of a line, a sentence or a word, whichever comes last before the limit.
fn pieces(text: &str) -> Vec<&str> {
    let mut rest = text.trim_end();
    let mut found = Vec::new();
    while rest.len() > MAX {
        let window = head(rest, MAX);
        let late = |at: &usize| *at > MAX / 2;
        let at = window
            .rfind('\n')
            .filter(late)
            .or_else(|| window.rfind(['.', '!', '?', '。']).map(|at| ceil(window, at + 1)).filter(late))
            .or_else(|| window.rfind(char::is_whitespace).filter(|at| *at > 0))
            .unwrap_or(window.len());
        found.push(rest[..at].trim_end());
        rest = rest[at..].trim_start();
    }
    found.push(rest);
    found.retain(|piece| !piece.is_empty());
    found
}

fn head(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn ceil(text: &str, at: usize) -> usize {
    text.ceil_char_boundary(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_stay_together() {
        let body = "A run stops when a limit is reached. ".repeat(18);
        let text = format!(
            "# Guide\n\nIntro.\n\n## Limits\n\n{body}\n\n## Counters\n\n{body}\n\n```\n# no heading\n\nx\n```\n"
        );
        let document = split("docs/guide.md", &text);
        assert_eq!(document.title, "Guide");
        assert_eq!(document.passages.len(), 2);
        assert!(document.passages[0].text.starts_with("# Guide\n\nIntro.\n\n## Limits"));
        assert_eq!(document.passages[1].heading, "Counters");
        assert!(document.passages[1].text.contains("# no heading\n\nx"));
    }

    #[test]
    fn long_text_is_cut_and_nothing_is_lost() {
        for text in ["word ".repeat(2_000), "語".repeat(3_000), "No end. ".repeat(900), "line\n".repeat(800)] {
            let document = split("a.txt", &text);
            assert!(document.passages.iter().all(|passage| passage.text.len() <= MAX));
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            let joined: String = document.passages.iter().map(|passage| squeeze(&passage.text)).collect();
            assert_eq!(joined, squeeze(&text));
        }
    }

    #[test]
    fn titles_fall_back_to_the_name() {
        assert_eq!(split("x/plain.txt", "Just text.").title, "plain");
        assert_eq!(split("x.html", "<title>T</title><p>a</p>").title, "T");
        assert_eq!(split("empty.md", " \n\n"), Document { title: "empty".into(), passages: Vec::new() });
    }
}
