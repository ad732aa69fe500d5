// SPDX-License-Identifier: MPL-2.0

//! What the element has done, for its `stats` property and its log.

use crate::bundle::GraphKind;
use crate::restorer::Restorer;

use super::stream::Counts;

/// Counters since the element started, and durations of the last runs.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub frames_in: u64,
    pub frames_out: u64,
    pub counts: Counts,
    /// Mean and 95th percentile of each graph, in milliseconds.
    graphs: [(f64, f64); GraphKind::ALL.len()],
    pub latency: gst::ClockTime,
    pub provider: Option<&'static str>,
    /// The most memory of the GPU that was taken, in bytes.
    device_memory_peak: Option<u64>,
}

impl Statistics {
    /// All zero, on a provider.
    pub fn new(provider: &'static str) -> Self {
        Self {
            provider: Some(provider),
            ..Default::default()
        }
    }

    /// Adds what a stream has done.
    pub fn add(&mut self, counts: Counts) {
        self.counts.windows += counts.windows;
        self.counts.restored += counts.restored;
        self.counts.bypassed += counts.bypassed;
        self.counts.empty += counts.empty;
        self.counts.faces += counts.faces;
        self.counts.scene_cuts += counts.scene_cuts;
        self.counts.regions_in_memory = counts.regions_in_memory;
        self.counts.converting += counts.converting;
    }

    /// Takes the durations of a restorer's runs, and the memory of its device.
    pub fn measure(&mut self, restorer: &Restorer) {
        self.device_memory_peak = self.device_memory_peak.max(restorer.device_memory_peak());
        for (kind, graph) in GraphKind::ALL.into_iter().zip(&mut self.graphs) {
            let timing = restorer.timing(kind);
            *graph = (timing.mean_ms(), timing.p95_ms());
        }
    }

    /// As the property gives it.
    pub fn structure(&self) -> gst::Structure {
        let mut structure = gst::Structure::builder("dvfacerestore-stats")
            .field("frames-in", self.frames_in)
            .field("frames-out", self.frames_out)
            .field("frames-restored", self.counts.restored)
            .field("frames-bypassed", self.counts.bypassed)
            .field("frames-without-face", self.counts.empty)
            .field("faces-restored", self.counts.faces)
            .field("windows", self.counts.windows)
            .field("regions-in-memory", self.counts.regions_in_memory)
            .field("scene-cuts", self.counts.scene_cuts)
            .field("conversion-total-ms", self.counts.converting.as_secs_f64() * 1e3)
            .field("latency", self.latency)
            .field("provider", self.provider.unwrap_or("none"))
            .build();
        for (kind, (mean, p95)) in GraphKind::ALL.into_iter().zip(self.graphs) {
            structure.set(format!("{kind}-mean-ms"), mean);
            structure.set(format!("{kind}-p95-ms"), p95);
        }
        if let Some(peak) = self.device_memory_peak {
            structure.set("gpu-memory-peak", peak);
        }
        structure
    }
}
