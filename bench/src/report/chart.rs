//! SVG charts: every sample as a dot, and ratios with their intervals.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    Color as _, DrawingBackend as _, IntoFont as _, RGBColor, SVGBackend, ShapeStyle, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::case::Subject;
use crate::stats::{float, median};

const WIDTH: u32 = 860;
/// Height of a row, pixels.
const ROW: u32 = 24;
/// Room for the names of rows.
const NAMES: i32 = 170;
/// Room at the right.
const MARGIN: i32 = 60;
/// Room for the axis.
const AXIS: u32 = 30;

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const GREY: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// A row of dots: the samples of one subject.
#[derive(Clone, Debug)]
pub struct Strip {
    /// What is written before it.
    pub name: String,
    /// Whose colour it has.
    pub subject: Subject,
    /// The figures in the order of the rounds, and whether the round was noisy.
    pub dots: Vec<(f64, bool)>,
}

/// A ratio with its interval.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What is written before it.
    pub name: String,
    /// Whose colour it has.
    pub subject: Subject,
    /// Lower end, median, upper end.
    pub interval: [f64; 3],
    /// What is written behind it.
    pub told: String,
}

/// Every sample of a case, from zero on; hollow dots are of noisy rounds, lines are medians.
pub fn strips(rows: &[Strip], label: impl Fn(f64) -> String) -> Result<String> {
    let all = rows.iter().flat_map(|row| &row.dots);
    let most = all.map(|(value, _)| *value).fold(0.0, f64::max) * 1.04;
    let most = if most > 0.0 { most } else { 1.0 };
    let scale = Scale::new(0.0, most);
    svg(rows.len(), |canvas| {
        for tick in ticks(most) {
            canvas.gridline(scale.place(tick), &label(tick), PALE)?;
        }
        for (row, top) in rows.iter().zip((0..).step_by(ROW as usize)) {
            canvas.name(&row.name, top)?;
            draw_strip(canvas, row, top, &scale)?;
        }
        Ok(())
    })
}

fn draw_strip(canvas: &mut Canvas<'_>, row: &Strip, top: i32, scale: &Scale) -> Result<()> {
    let colour = colour(row.subject);
    let height = ROW.cast_signed();
    let count = i32::try_from(row.dots.len())?.max(1);
    // A little lower with each round: what drifts in time is seen.
    for ((value, noisy), number) in row.dots.iter().zip(0..) {
        let y = top + 4 + number * (height - 8) / count;
        let style = if *noisy {
            colour.stroke_width(1)
        } else {
            colour.mix(0.75).filled()
        };
        canvas.dot((scale.place(*value), y), 3, style)?;
    }
    let values: Vec<f64> = row.dots.iter().map(|(value, _)| *value).collect();
    if let Some(median) = median(&values) {
        let x = scale.place(median);
        let style = colour.stroke_width(2);
        canvas.line((x, top + 1), (x, top + height - 2), style)?;
    }
    Ok(())
}

/// Ratios on a logarithmic axis, with a line at 1: what crosses it is no difference.
pub fn bars(rows: &[Bar]) -> Result<String> {
    let ends = rows.iter().flat_map(|row| row.interval);
    let (least, most) = ends.fold((0.9_f64, 1.1_f64), |(least, most), end| {
        (least.min(end), most.max(end))
    });
    let scale = Scale::new(least.ln(), most.ln());
    svg(rows.len(), |canvas| {
        for tick in [0.1, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0] {
            if (least..=most).contains(&tick) {
                canvas.gridline(scale.place(tick.ln()), &tick.to_string(), PALE)?;
            }
        }
        canvas.gridline(scale.place(0.0), "1", INK)?;
        for (row, top) in rows.iter().zip((0..).step_by(ROW as usize)) {
            canvas.name(&row.name, top)?;
            let colour = colour(row.subject);
            let y = top + ROW.cast_signed() / 2;
            let [low, middle, high] = row.interval.map(|end| scale.place(end.ln()));
            canvas.line((low, y), (high, y), colour.stroke_width(2))?;
            canvas.dot((middle, y), 4, colour.filled())?;
            canvas.text(&row.told, (WIDTH.cast_signed() - 4, y), HPos::Right, 11)?;
        }
        Ok(())
    })
}

/// The colours of Okabe and Ito, which people with any eyes can tell apart.
pub const fn colour(subject: Subject) -> RGBColor {
    match subject {
        Subject::Host => GREY,
        Subject::Kernel => RGBColor(0x00, 0x72, 0xb2),
        Subject::Off => RGBColor(0xcc, 0x79, 0xa7),
        Subject::Permit => RGBColor(0x00, 0x9e, 0x73),
        Subject::Direct => RGBColor(0xd5, 0x5e, 0x00),
        Subject::Again => RGBColor(0x56, 0xb4, 0xe9),
        Subject::Slowed => RGBColor(0xe6, 0x9f, 0x00),
    }
}

/// From values to pixels.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    const fn new(least: f64, most: f64) -> Self {
        Self { least, most }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a place on a chart that is hundreds of pixels wide"
    )]
    fn place(&self, value: f64) -> i32 {
        let share = (value - self.least) / (self.most - self.least);
        let width = float(WIDTH.into()) - f64::from(NAMES) - f64::from(MARGIN) * 2.0;
        NAMES + (share * width).round() as i32
    }
}

/// Some round values from zero on.
fn ticks(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..=10)
        .map(|number| float(number) * step)
        .take_while(|tick| *tick <= most)
        .collect()
}

fn svg(rows: usize, fill: impl FnOnce(&mut Canvas<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    let bottom = i32::try_from(rows)? * ROW.cast_signed();
    let size = (WIDTH, bottom.cast_unsigned() + AXIS);
    let mut canvas = Canvas {
        backend: SVGBackend::with_string(&mut text, size),
        bottom,
    };
    fill(&mut canvas)?;
    let presented = canvas.backend.present();
    presented.map_err(|error| anyhow!("write SVG: {error}"))?;
    // The text is complete when the backend is gone.
    drop(canvas);
    Ok(text)
}

/// A chart while it is drawn.
struct Canvas<'a> {
    backend: SVGBackend<'a>,
    /// Where the rows end and the axis begins.
    bottom: i32,
}

impl Canvas<'_> {
    fn dot(&mut self, at: (i32, i32), radius: u32, style: ShapeStyle) -> Result<()> {
        let drawn = self.backend.draw_circle(at, radius, &style, style.filled);
        drawn.map_err(|error| anyhow!("draw a dot: {error}"))
    }

    fn line(&mut self, from: (i32, i32), to: (i32, i32), style: ShapeStyle) -> Result<()> {
        let drawn = self.backend.draw_path([from, to], &style);
        drawn.map_err(|error| anyhow!("draw a line: {error}"))
    }

    fn text(&mut self, text: &str, at: (i32, i32), side: HPos, size: i32) -> Result<()> {
        let style = TextStyle::from(("sans-serif", size).into_font()).color(&INK);
        let style = style.pos(Pos::new(side, VPos::Center));
        let drawn = self.backend.draw_text(text, &style, at);
        drawn.map_err(|error| anyhow!("draw text: {error}"))
    }

    fn gridline(&mut self, x: i32, label: &str, colour: RGBColor) -> Result<()> {
        let bottom = self.bottom;
        self.line((x, 0), (x, bottom + 4), colour.stroke_width(1))?;
        self.text(label, (x, bottom + 15), HPos::Center, 11)
    }

    fn name(&mut self, label: &str, top: i32) -> Result<()> {
        let middle = top + ROW.cast_signed() / 2;
        self.text(label, (NAMES - 10, middle), HPos::Right, 12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_a_dot() {
        let row = |subject, values: &[f64]| Strip {
            name: format!("{subject}, pod"),
            subject,
            dots: values.iter().map(|value| (*value, *value > 10.5)).collect(),
        };
        let rows = [
            row(Subject::Host, &[10.0, 11.0, 10.2]),
            row(Subject::Kernel, &[5.0, 5.5, 4.8]),
        ];
        let svg = strips(&rows, |value| format!("{value:.0}")).unwrap();
        assert_eq!(svg.matches("<circle").count(), 6, "{svg}");
        assert!(svg.contains("kernel, pod"));
        assert!(svg.ends_with("</svg>\n") || svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_ratio_has_a_line_at_one() {
        let svg = bars(&[Bar {
            name: "tcp_rr, permit".to_owned(),
            subject: Subject::Permit,
            interval: [1.3, 1.4, 1.5],
            told: "1.40 [1.30, 1.50]".to_owned(),
        }])
        .unwrap();
        assert!(svg.contains("#222222"), "{svg}");
        assert!(svg.contains("1.40 [1.30, 1.50]"));
    }

    #[test]
    fn ticks_are_round_and_on_the_chart() {
        assert_eq!(ticks(23.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(ticks(1.0).len(), 6);
    }

    #[test]
    fn nothing_measured_is_an_empty_chart() {
        assert!(strips(&[], |_| String::new()).is_ok());
        assert!(bars(&[]).is_ok());
    }
}
