//! A sheet: one picture made larger in several ways, side by side, whole and in detail.

use crate::draw::{Area, Canvas, LINE};

/// Width of a column, in pixels, and how many stand beside each other before a new row begins.
const COLUMN: usize = 480;
const COLUMNS_MAX: usize = 4;
/// Space around every cell.
const GAP: usize = 10;
/// How much the detail is magnified.
const ZOOM: usize = 3;
const PAPER: [u8; 3] = [32, 33, 36];

/// One way of making the picture larger.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name and, on a second line, what is to be said of it.
    pub title: String,
    pub remark: String,
    /// The enlarged picture; all columns' have one size.
    pub picture: Canvas,
}

/// Draws the sheet: its title, and for each column its name, the whole picture and the magnified detail, which
/// is outlined in the whole. `detail` lies within the pictures.
pub fn draw(title: &str, columns: &[Column], detail: Area) -> Canvas {
    let cells: Vec<Canvas> = columns.iter().map(|column| cell(column, detail)).collect();
    // Rows of about the same length.
    let across = cells.len().div_ceil(cells.len().div_ceil(COLUMNS_MAX).max(1)).max(1);
    let heights: Vec<usize> =
        cells.chunks(across).map(|row| row.iter().map(|c| c.height).max().unwrap_or(0) + GAP).collect();
    let head = 2 * GAP + LINE;
    let mut sheet = Canvas::filled(across * (COLUMN + GAP) + GAP, head + heights.iter().sum::<usize>(), PAPER);
    sheet.write(title, GAP, GAP, sheet.width - 2 * GAP);
    let mut y = head;
    for (row, height) in cells.chunks(across).zip(heights) {
        for (n, cell) in row.iter().enumerate() {
            sheet.put(cell, GAP + n * (COLUMN + GAP), y);
        }
        y += height;
    }
    sheet
}

fn cell(column: &Column, detail: Area) -> Canvas {
    let picture = &column.picture;
    let (width, height) = (picture.width.max(1), picture.height.max(1));
    // A small picture fills its column too.
    let mut whole = match (COLUMN / width).min(COLUMN / height) {
        0 | 1 => picture.shrunk(COLUMN),
        times => picture.magnified(Area { x: 0, y: 0, width: picture.width, height: picture.height }, times),
    };
    let scale = |v: usize| v * whole.width / width;
    let outline = Area {
        x: scale(detail.x),
        y: scale(detail.y),
        width: scale(detail.width).max(4),
        height: scale(detail.height).max(4),
    };
    whole.outline(outline);
    let close = picture.magnified(detail, ZOOM);
    let head = 2 * LINE + GAP;
    let mut cell = Canvas::filled(COLUMN, head + whole.height + GAP + close.height, PAPER);
    cell.write(&column.title, 0, 0, COLUMN);
    cell.write(&column.remark, 0, LINE, COLUMN);
    cell.put(&whole, 0, head);
    cell.put(&close, 0, head + whole.height + GAP);
    cell
}

/// The part of an enlarged picture with the most in it, of the size that fills a column when
/// magnified: a place where the ways differ.
pub fn busiest(picture: &Canvas) -> Area {
    let (width, height) = ((COLUMN / ZOOM).min(picture.width), (COLUMN / ZOOM * 3 / 4).min(picture.height));
    let luma = |x: usize, y: usize| {
        let at = 3 * (y * picture.width + x);
        2 * i64::from(picture.data[at]) + 5 * i64::from(picture.data[at + 1]) + i64::from(picture.data[at + 2])
    };
    // Sums of the steps from pixel to pixel over everything above and to the left.
    let stride = picture.width + 1;
    let mut sums = vec![0i64; stride * (picture.height + 1)];
    for y in 0..picture.height {
        let mut row = 0;
        for x in 0..picture.width {
            let (right, below) = ((x + 1).min(picture.width - 1), (y + 1).min(picture.height - 1));
            row += (luma(x, y) - luma(right, y)).abs() + (luma(x, y) - luma(x, below)).abs();
            sums[(y + 1) * stride + x + 1] = sums[y * stride + x + 1] + row;
        }
    }
    let inside = |x: usize, y: usize| {
        sums[(y + height) * stride + x + width] + sums[y * stride + x]
            - sums[y * stride + x + width]
            - sums[(y + height) * stride + x]
    };
    let places = |size: usize, part: usize| (0..=size - part).step_by((part / 4).max(1));
    let all = places(picture.height, height).flat_map(|y| places(picture.width, width).map(move |x| (x, y)));
    // Of equal ones the first.
    let (x, y) = all.fold((0, 0), |best, at| if inside(at.0, at.1) > inside(best.0, best.1) { at } else { best });
    Area { x, y, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Canvas {
        let mut picture = Canvas::filled(1000, 600, [90, 90, 90]);
        for n in 0..20 {
            picture.put(&Canvas::filled(3, 80, [250, 250, 250]), 700 + 6 * n, 400);
        }
        picture
    }

    #[test]
    fn the_busiest_part_holds_what_there_is() {
        let area = busiest(&picture());
        assert_eq!((area.width, area.height), (160, 120));
        assert!(
            area.x <= 700 && area.x + area.width >= 817 && area.y <= 400 && area.y + area.height >= 480,
            "{area:?}"
        );
        let tiny = busiest(&Canvas::filled(5, 1, [1, 2, 3]));
        assert_eq!(tiny, Area { x: 0, y: 0, width: 5, height: 1 });
    }

    #[test]
    fn columns_stand_in_even_rows() {
        let column = Column { title: "a".into(), remark: "b".into(), picture: picture() };
        let sheet = |n| draw("title", &vec![column.clone(); n], busiest(&column.picture));
        let (three, five) = (sheet(3), sheet(5));
        assert_eq!((three.width, five.width), (3 * 490 + 10, 3 * 490 + 10));
        assert_eq!(five.height - 40, 2 * (three.height - 40));
        // The detail's first column of pixels is magnified: it holds the grey and the white.
        let row = &three.data[3 * three.width * (three.height - 11)..][..3 * (GAP + COLUMN)];
        assert!(row.contains(&250) && row.contains(&90));
    }
}
