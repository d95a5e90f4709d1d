//! Latencies in buckets of constant relative width: cheap to count, exact to 1.6 %.

/// Buckets per power of two.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// Counts of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; ((64 - SUB_BITS as usize) + 1) << SUB_BITS],
            total: 0,
        }
    }
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value below which `part` of all values are (0.99 for p99).
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        let goal = (self.total as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= goal {
                return value(index);
            }
        }
        0
    }
}

#[inline]
fn bucket(nanos: u64) -> usize {
    if nanos < SUB {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - SUB_BITS;
    ((u64::from(shift + 1) << SUB_BITS) + ((nanos >> shift) & (SUB - 1))) as usize
}

fn value(bucket: usize) -> u64 {
    let (row, column) = (bucket as u64 >> SUB_BITS, bucket as u64 & (SUB - 1));
    if row == 0 {
        column
    } else {
        (SUB + column) << (row - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(micros * 1000);
        }
        for (part, expected) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.quantile(part) as f64;
            assert!((found / expected - 1.0).abs() < 0.02, "{part}: {found}");
        }
    }

    #[test]
    fn the_greatest_value_has_a_bucket() {
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        assert!(histogram.quantile(1.0) > u64::MAX / 100 * 98);
    }
}
