// SPDX-License-Identifier: MPL-2.0

//! The parts of the element around the graphs: windows, conversion and paste, manifest. `cargo bench --bench parts`

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};
use gstdvface::bundle::Bundle;
use gstdvface::dvfacerestore::picture::Picture;
use gstdvface::dvfacerestore::regions::{FaceLook, FacePictures, Region};
use gstdvface::face::Rect;
use gstdvface::face::mask::Shape;
use gstdvface::face::tracks::Shown;
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

/// A face of 240 pixels that moves with every frame, cut out of a frame of 1280x720 (540 pixels) and put back.
fn faces(criterion: &mut Criterion) {
    gst::init().expect("GStreamer is installed");
    let mut group = criterion.benchmark_group("face");
    for format in [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::I42010le,
        VideoFormat::Bgrx,
    ] {
        let info = VideoInfo::builder(format, 1280, 720).build().expect("a video format");
        let look = FaceLook {
            margin: 0.625,
            shape: Shape::Ellipse,
            matches_colours: true,
        };
        let mut pictures = FacePictures::new(&info, SIDE, SIDE, look).expect("GStreamer converts it");
        let mut places = (0u32..).map(|at| {
            let way = 200.0 * (f64::from(at) / 20.0).sin();
            Shown {
                id: 1,
                rect: Rect {
                    x: 500.0 + way,
                    y: 200.0 + way / 5.0,
                    width: 180.0,
                    height: 240.0,
                },
                share: 1.0,
            }
        });
        let mut next = |pictures: &FacePictures| {
            let shown = places.next().expect("endless");
            match pictures.regions(&[shown]).pop() {
                Some(Region::Face(face)) => face,
                _ => unreachable!("one face"),
            }
        };
        let pixels: Vec<u8> = (0..info.size()).map(|at| (at * 7 % 200) as u8).collect();
        let buffer = gst::Buffer::from_slice(pixels);
        let mut seen = vec![0; FRAME_BYTES];
        group.bench_function(format!("crop {format}"), |bencher| {
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).expect("its own memory");
            bencher.iter(|| {
                let face = next(&pictures);
                pictures.read(&frame, &face, &mut seen).expect("memory");
            });
        });
        let restored: Vec<u8> = seen.iter().map(|value| value.saturating_add(9)).collect();
        group.bench_function(format!("paste {format}"), |bencher| {
            // Metas add up: each round has a buffer of its own.
            bencher.iter_batched(
                || buffer.copy_deep().expect("memory"),
                |mut buffer| {
                    let face = next(&pictures);
                    let draw = |pixels: &mut [u8]| pixels.copy_from_slice(&restored);
                    let buffer = buffer.get_mut().expect("the only reference");
                    pictures.apply(buffer, &face, 1.0, &seen, draw).expect("memory");
                },
                BatchSize::SmallInput,
            );
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

criterion_group!(parts, windows, pictures, faces, manifest);
criterion_main!(parts);
