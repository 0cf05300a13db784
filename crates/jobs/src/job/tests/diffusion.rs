//! A film through a diffusion model: slow, but as safe as any other.

use upscaled_core::failpoint;

use super::*;

#[test]
fn a_film_goes_on_where_it_was() {
    let film = FILM.replace("64x48", "36x28").replace("-t 2", "-t 0.4");
    let Some(mut bench) = ready("a_film_goes_on_where_it_was").then(|| Bench::new("film.mkv", &film)).flatten() else {
        return;
    };
    let model = bench.folder.path().join("tiny");
    std::fs::create_dir(&model).unwrap();
    for file in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model")).unwrap()
    {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    bench.order.settings.model = model.to_str().unwrap().into();
    bench.order.settings.process_size = 64;
    bench.order.settings.scale = 3;
    let reference = bench.reference();
    for at in [1, 4] {
        let shutdown = Shutdown::new();
        let word = shutdown.clone();
        let _stop = failpoint::at("frame_store.write", at, move || word.stop());
        bench.stopped(&shutdown);
    }
    // Another model under the same name is no way to go on.
    let facts = model.join("model.toml");
    let text = std::fs::read_to_string(&facts).unwrap();
    std::fs::write(&facts, text.clone() + "\n").unwrap();
    let (fault, words) = bench.refused();
    assert!(fault == Fault::ModelChanged && words.contains("has changed since the job was planned"), "{words}");
    std::fs::write(&facts, text).unwrap();
    let outcome = bench.done();
    assert_eq!((outcome.frames, outcome.upscaled(), outcome.width, outcome.height), (10, 5, 108, 84));
    bench.same_as(&reference);
    assert!(bench.progress().iter().any(|p| p.tiles > 0));
    assert_eq!(framemd5(&bench.output()).len(), 10);
}
