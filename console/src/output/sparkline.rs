//! A row of numbers as a row of bars, a character each: `▃▄▃▇`.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Stands for a number that is missing.
const GAP: char = '·';

/// The bars, at most `max` of the latest. Half the height is what is usual, where that is known, so that a jitter
/// looks like one; what is more than twice that makes the scale.
pub fn sparkline(values: &[Option<u32>], usual: Option<u32>, max: usize) -> String {
    let values = &values[values.len().saturating_sub(max)..];
    let largest = values.iter().flatten().copied().max().unwrap_or(0);
    let full = u64::from(usual.unwrap_or(0)).saturating_mul(2).max(u64::from(largest)).max(1);
    let bar = |value: u32| {
        let steps = BARS.len() as u64;
        // Rounded up, so that only nothing is lower than the lowest bar's top.
        let height = (u64::from(value) * steps).div_ceil(full).clamp(1, steps);
        BARS[height as usize - 1]
    };
    values.iter().map(|value| value.map_or(GAP, bar)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(values: &[u32], usual: u32) -> String {
        let known = |value: u32| (value != 0).then_some(value);
        sparkline(&values.iter().map(|value| known(*value)).collect::<Vec<_>>(), known(usual), 24)
    }

    #[test]
    fn what_is_usual_is_half_the_height() {
        assert_eq!(bars(&[400, 410, 395, 800], 400), "▄▅▄█");
        assert_eq!(bars(&[400, 410, 395], 400), "▄▅▄");
        assert_eq!(bars(&[400, 0, 4_000, 400], 400), "▁·█▁");
    }

    #[test]
    fn any_numbers_make_bars() {
        assert_eq!(bars(&[1, 2, 3, 4, 5, 6, 7, 8], 0), "▁▂▃▄▅▆▇█");
        assert_eq!(bars(&[0, 0], 0), "··");
        assert_eq!(bars(&[u32::MAX, 1], u32::MAX), "▄▁");
        assert_eq!(bars(&[], 5), "");
        assert_eq!(sparkline(&[Some(1); 30], None, 24).chars().count(), 24);
    }
}
