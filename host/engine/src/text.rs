//! Text from a guest: cut at a character boundary, and free of anything that could forge a line, a column or a
//! colour elsewhere.

const MARK: &str = "…";

/// Cuts `text` to at most `max` bytes, the mark included. True if something was cut.
pub(crate) fn cut(text: &mut String, max: usize) -> bool {
    if text.len() <= max {
        return false;
    }
    text.truncate(text.floor_char_boundary(max.saturating_sub(MARK.len())));
    text.push_str(MARK);
    true
}

/// Replaces control characters and the invisible ones that reorder or break lines. True if there were any.
pub(crate) fn clean(text: &mut String) -> bool {
    let dirty = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                    | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
            )
    };
    if !text.contains(dirty) {
        return false;
    }
    *text = text.replace(dirty, "\u{fffd}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_cut(text: &str, max: usize, expected: &str) {
        let mut cut_text = text.to_owned();
        assert_eq!(cut(&mut cut_text, max), text != expected);
        assert_eq!(cut_text, expected);
    }

    #[test]
    fn text_is_cut_at_a_character_boundary_and_marked() {
        check_cut("abcdef", 6, "abcdef");
        check_cut("abcdefg", 6, "abc…");
        check_cut("aéééé", 7, "aé…");
        check_cut("", 0, "");
    }

    #[test]
    fn what_could_forge_a_line_is_replaced() {
        let mut text = "a\nb\u{1b}[31mc\0d\u{202e}e".to_owned();
        assert!(clean(&mut text));
        assert_eq!(text, "a\u{fffd}b\u{fffd}[31mc\u{fffd}d\u{fffd}e");
        let mut text = "Zustand „gut“".to_owned();
        assert!(!clean(&mut text));
    }
}
