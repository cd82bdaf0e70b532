//! Tables for people.

use std::fmt::Write;

use super::output::printable;

/// Formats rows in columns, each as wide as its widest cell, two spaces apart. Control characters
/// are escaped.
pub(super) fn format(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = format(&[
            row(["HOST", "PATH", "TO"]),
            row(["a.example.com", "/*", "a"]),
            row(["", "/b", ""]),
        ]);
        assert_eq!(format(&[vec!["\u{1b}[2J\n".to_owned()]]), "\\u{1b}[2J\\n\n");
        assert_eq!(text, "HOST           PATH  TO\na.example.com  /*    a\n               /b\n");
    }
}
