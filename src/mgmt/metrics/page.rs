//! The text format, one family of metrics at a time, so that a director with many real servers needs memory for one.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// A metric's name and what it says.
pub(super) type Named = (&'static str, &'static str);

/// See the module.
#[derive(Default)]
pub(super) struct Page {
    text: String,
}

/// One line: labels and a value.
pub(super) struct Sample<const N: usize>(pub [(&'static str, String); N], pub f64);

impl Page {
    /// A family that only grows; its name ends in `_total`.
    pub(super) fn counter<const N: usize>(&mut self, named: Named, samples: impl IntoIterator<Item = Sample<N>>) {
        self.values(named, MetricType::COUNTER, samples, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// A family of what is now.
    pub(super) fn gauge<const N: usize>(&mut self, named: Named, samples: impl IntoIterator<Item = Sample<N>>) {
        self.values(named, MetricType::GAUGE, samples, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    fn values<const N: usize>(
        &mut self,
        named: Named,
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<N>>,
        set: impl Fn(&mut Metric, f64),
    ) {
        let metrics = samples.into_iter().map(|Sample(labels, value)| {
            let mut metric = labelled(labels);
            set(&mut metric, value);
            metric
        });
        self.family(named, kind, metrics.collect());
    }

    /// A family of histograms: labels, the sum of all samples, and for each upper bound the samples up to it;
    /// the last bound's are all samples.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        named: Named,
        histograms: impl IntoIterator<Item = (Sample<N>, Vec<(f64, u64)>)>,
    ) {
        let metrics = histograms.into_iter().map(|(Sample(labels, sum), bounds)| {
            let mut histogram = Histogram::default();
            histogram.set_sample_sum(sum);
            histogram.set_sample_count(bounds.last().map_or(0, |(_, samples)| *samples));
            let buckets = bounds.into_iter().map(|(bound, samples)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(samples);
                bucket
            });
            histogram.set_bucket(buckets.filter(|bucket| bucket.upper_bound().is_finite()).collect());
            let mut metric = labelled(labels);
            metric.set_histogram(histogram);
            metric
        });
        self.family(named, MetricType::HISTOGRAM, metrics.collect());
    }

    /// Everything written.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, (name, help): Named, kind: MetricType, metrics: Vec<Metric>) {
        // A family without a line is left out, as every exporter does.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        // This cannot fail: it writes into memory, and the family has a name and a line.
        let _ = TextEncoder::new().encode_utf8(&[family], &mut self.text);
    }
}

fn labelled<const N: usize>(labels: [(&'static str, String); N]) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    });
    Metric::from_label(pairs.collect())
}
