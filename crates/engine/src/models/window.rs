//! The window of a convolution or pooling: its taps, strides and padding.

use crate::models::onnx::NodeProto;
use crate::models::shapes::number;

/// Largest stride, block, padding or span of a window.
pub const STEP_MAX: i64 = 1 << 12;

/// The window of a convolution or pooling on the two axes of the picture.
pub struct Window {
    /// Samples from the first tap to the last.
    pub span: [i64; 2],
    pub stride: [i64; 2],
    /// Padding before and after.
    pub before: [i64; 2],
    pub after: [i64; 2],
    more: [i64; 2],
}

impl Window {
    /// `weights`: dimensions of the weights, which tell the kernel where the attribute does not.
    pub fn of(node: &NodeProto, weights: &[i64]) -> Option<Window> {
        let kernel = match node.ints("kernel_shape") {
            [] => weights.get(2..)?,
            given => given,
        };
        let pair = |name: &str, default: i64| match *node.ints(name) {
            [] => Some([default; 2]),
            [a, b] => Some([a, b]),
            _ => None,
        };
        let (&[a, b], dilation, stride) = (kernel, pair("dilations", 1)?, pair("strides", 1)?) else { return None };
        let span = [(number(a) - 1).saturating_mul(dilation[0]), (number(b) - 1).saturating_mul(dilation[1])];
        let (before, after) = match (node.text("auto_pad"), node.ints("pads")) {
            ("" | "NOTSET", []) | ("VALID", _) => ([0; 2], [0; 2]),
            ("" | "NOTSET", &[a, b, c, d]) => ([a, b], [c, d]),
            // Depends on the size; with a stride of one it is half of the span.
            ("SAME_UPPER" | "SAME_LOWER", _) if stride == [1, 1] => {
                let small = span.map(|s| s / 2);
                let large = [span[0] - small[0], span[1] - small[1]];
                if node.text("auto_pad") == "SAME_UPPER" { (small, large) } else { (large, small) }
            }
            _ => return None,
        };
        let more = pair("output_padding", 0)?;
        let wrong = |&s: &i64| !(0..=STEP_MAX).contains(&s);
        let sides = before.iter().chain(&after).chain(&more).any(|&s| !(-STEP_MAX..=STEP_MAX).contains(&s));
        if stride.contains(&0) || stride.iter().any(wrong) || span.iter().any(wrong) || sides {
            return None;
        }
        Some(Window { span, stride, before, after, more })
    }

    /// Size of a convolution's output.
    pub fn left(&self, axis: usize, size: i64) -> Option<i64> {
        let room = size + self.before[axis] + self.after[axis] - self.span[axis] - 1;
        (room >= 0).then(|| room / self.stride[axis] + 1)
    }

    /// Size of a transposed convolution's output.
    pub fn grown(&self, axis: usize, size: i64) -> Option<i64> {
        let cut = self.before[axis] + self.after[axis];
        let size = (size - 1) * self.stride[axis] + self.span[axis] + 1 + self.more[axis] - cut;
        (size > 0).then_some(size)
    }
}
