"""What steps pass to each other. Every artifact is a folder with the files listed here.

Records are frozen, carry a schema version, and load strictly (see components/records.py). Tables
are Parquet. They contain no time and no absolute path, so the same input gives the same files, on a
laptop and on a cluster.

    Manifest          manifest.json, manifest.parquet       one row per image file
    ValidationReport  validation.json, index.html, images.json; by the checks that ran: label_errors.json,
                      relabel.csv, outliers.json, shortcuts.json
    Split             split.json, split.parquet             one row per unique image
    Shards            shards.json, <split>-00000-of-00002.tfrecord
    Augmentation      augmentation.json, preview.png, extra shards if asked for
    Training          training.json, model.keras
    Export            export.json, saved_model/
    Evaluation        evaluation.json, predictions.parquet, golden.json, calibration.json; slices.json,
                      saliency.json; with costs: costs.json, cost_report.json
    SmokeTest         smoke_test.json
    Decision          decision.json; with costs and a champion: cost_report.json
    Registration      registration.json
    Publication       publication.json
    FinalTest         final_test.json
    Confirmation      confirmation.json
"""
