//! A canvas of RGB bytes: pictures and words put beside each other.

use std::convert::Infallible;

use embedded_graphics::mono_font::{MonoTextStyle, ascii};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Pixel, Point, RgbColor, Size};
use embedded_graphics::primitives::{Primitive, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};

/// Height of a line of text, in pixels.
pub const LINE: usize = 20;
/// Width of a letter.
const LETTER: usize = 10;

/// A picture of 8-bit RGB, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    /// `3 * width * height` bytes.
    pub data: Vec<u8>,
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Canvas {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Canvas {
        Canvas { width, height, data: colour.repeat(width * height) }
    }

    fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (y * self.width + x);
        [self.data[at], self.data[at + 1], self.data[at + 2]]
    }

    /// The part of a picture, each pixel repeated `times` across and down.
    pub fn magnified(&self, area: Area, times: usize) -> Canvas {
        let mut data = Vec::with_capacity(3 * area.width * area.height * times * times);
        for y in 0..area.height {
            let row: Vec<u8> = (0..area.width).flat_map(|x| self.pixel(area.x + x, area.y + y).repeat(times)).collect();
            (0..times).for_each(|_| data.extend_from_slice(&row));
        }
        Canvas { width: area.width * times, height: area.height * times, data }
    }

    /// The picture made smaller to `width` pixels across: each pixel the mean of those it
    /// stands for. A picture that is narrower stays as it is.
    pub fn shrunk(&self, width: usize) -> Canvas {
        if width == 0 || width >= self.width {
            return self.clone();
        }
        let height = (self.height * width / self.width).max(1);
        let span = |i: usize, of: usize, from: usize| i * from / of..((i + 1) * from / of).max(i * from / of + 1);
        let mut data = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let (columns, rows) = (span(x, width, self.width), span(y, height, self.height));
                let count = (columns.len() * rows.len()) as u32;
                let mut sum = [0u32; 3];
                for (row, column) in rows.flat_map(|r| columns.clone().map(move |c| (r, c))) {
                    self.pixel(column, row).iter().zip(&mut sum).for_each(|(&v, sum)| *sum += u32::from(v));
                }
                data.extend(sum.map(|s| ((s + count / 2) / count) as u8));
            }
        }
        Canvas { width, height, data }
    }

    /// Puts a picture with its upper left corner at a place; what lies outside is left away.
    pub fn put(&mut self, other: &Canvas, x: usize, y: usize) {
        let width = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let to = 3 * ((y + row) * self.width + x);
            let from = 3 * row * other.width;
            self.data[to..to + 3 * width].copy_from_slice(&other.data[from..from + 3 * width]);
        }
    }

    /// Writes a line of text, at most `width` pixels of it, from its upper left corner.
    pub fn write(&mut self, text: &str, x: usize, y: usize, width: usize) {
        // The font has ASCII only.
        let fits: String = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).take(width / LETTER).collect();
        let style = MonoTextStyle::new(&ascii::FONT_10X20, Rgb888::WHITE);
        let Ok(_) = Text::with_baseline(&fits, Point::new(x as i32, y as i32), style, Baseline::Top).draw(self);
    }

    /// Draws the outline of a part.
    pub fn outline(&mut self, area: Area) {
        let corner = Point::new(area.x as i32, area.y as i32);
        let size = Size::new(area.width as u32, area.height as u32);
        let style = PrimitiveStyle::with_stroke(Rgb888::YELLOW, 2);
        let Ok(()) = Rectangle::new(corner, size).into_styled(style).draw(self);
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y))
                && x < self.width
                && y < self.height
            {
                let at = 3 * (y * self.width + x);
                self.data[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_magnified_and_shrunk() {
        let mut picture = Canvas::filled(4, 2, [10, 20, 30]);
        picture.put(&Canvas::filled(2, 2, [50, 60, 70]), 2, 0);
        let big = picture.magnified(Area { x: 1, y: 0, width: 2, height: 1 }, 2);
        let want = [[10, 20, 30].repeat(2), [50, 60, 70].repeat(2)].concat();
        assert_eq!((big.width, big.height, big.data), (4, 2, want.repeat(2)));
        let small = picture.shrunk(1);
        assert_eq!((small.width, small.height, small.data), (1, 1, vec![30, 40, 50]));
        assert_eq!(picture.shrunk(9), picture);
    }

    #[test]
    fn nothing_is_drawn_outside() {
        let mut picture = Canvas::filled(12, 22, [0; 3]);
        picture.write("A\u{e9}", 1, 1, 30);
        assert!(picture.data.contains(&255));
        picture.outline(Area { x: 8, y: 8, width: 40, height: 40 });
        picture.put(&Canvas::filled(30, 30, [7; 3]), 11, 21);
        assert_eq!(picture.data.len(), 3 * 12 * 22);
        assert_eq!(picture.data[3 * (22 * 12 - 1)..], [7, 7, 7]);
    }
}
