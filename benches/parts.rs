//! The parts of the element around the graphs: windows, conversion and paste, manifest. `cargo bench --bench parts`

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};
use gstdvface::bundle::Bundle;
use gstdvface::dvfacerestore::picture::Picture;
use gstdvface::window::{FrameStore, Planner, WindowShape, cross_fade};

/// Side of a bundle's frame, in pixels.
const SIDE: u32 = 512;
const FRAME_BYTES: usize = SIDE as usize * SIDE as usize * 3;

fn shape() -> WindowShape {
    WindowShape::new(17, 4).expect("dvface-nano's")
}

fn windows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("plan 1000 frames", |bencher| {
        bencher.iter(|| {
            let mut planner = Planner::new(shape());
            let mut emitted = 0;
            for _ in 0..1000 {
                if let Some(plan) = planner.push() {
                    emitted += plan.emit.end - plan.emit.start;
                }
            }
            black_box((emitted, planner.finish()))
        });
    });
    let mut store = FrameStore::new(shape(), FRAME_BYTES).expect("there is memory for two windows");
    let mut planner = Planner::new(shape());
    let frame = vec![7; FRAME_BYTES];
    group.throughput(Throughput::Bytes(FRAME_BYTES as u64));
    group.bench_function("store a frame of 512x512", |bencher| {
        bencher.iter(|| {
            store.next().copy_from_slice(&frame);
            store.commit();
            if let Some(plan) = planner.push() {
                black_box(store.window(&plan)[0]);
            }
        });
    });
    let (old, new, mut out) = (vec![10; FRAME_BYTES], vec![200; FRAME_BYTES], vec![0; FRAME_BYTES]);
    group.bench_function("cross-fade a frame of 512x512", |bencher| {
        bencher.iter(|| cross_fade(black_box(&old), black_box(&new), 0.4, &mut out));
    });
    group.finish();
}

fn pictures(criterion: &mut Criterion) {
    gst::init().expect("GStreamer is installed");
    let mut group = criterion.benchmark_group("picture");
    for (format, width, height) in [
        (VideoFormat::Rgb, SIDE, SIDE),
        (VideoFormat::I420, SIDE, SIDE),
        (VideoFormat::I420, 1280, 720),
        (VideoFormat::I42010le, 1280, 720),
        (VideoFormat::I420, 3840, 2160),
    ] {
        let info = VideoInfo::builder(format, width, height)
            .build()
            .expect("a video format");
        let mut picture = Picture::new(&info, SIDE, SIDE).expect("GStreamer converts it");
        let mut buffer = gst::Buffer::from_slice(vec![100; info.size()]);
        let mut seen = vec![0; FRAME_BYTES];
        let restored = vec![120; FRAME_BYTES];
        let name = format!("{format} {width}x{height}");
        group.throughput(Throughput::Bytes(info.size() as u64));
        group.bench_function(format!("read {name}"), |bencher| {
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).expect("its own memory");
            bencher.iter(|| picture.read(&frame, &mut seen));
        });
        group.bench_function(format!("paste {name}"), |bencher| {
            let buffer = buffer.get_mut().expect("the only reference");
            let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, &info).expect("its own memory");
            bencher.iter(|| picture.apply(&mut frame, 1.0, &seen, |pixels| pixels.copy_from_slice(&restored)));
        });
    }
    group.finish();
}

fn manifest(criterion: &mut Criterion) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/dvface-nano");
    let mut group = criterion.benchmark_group("manifest");
    group.bench_function("open", |bencher| {
        bencher.iter(|| black_box(Bundle::open(&dir).expect("the bundle that is shipped")));
    });
    let bundle = Bundle::open(&dir).expect("the bundle that is shipped");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(bundle.file_bytes()));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| bundle.verify().expect("its checksums are right"));
    });
    group.finish();
}

criterion_group!(parts, windows, pictures, manifest);
criterion_main!(parts);
