"""What crosses from step to step. Every artifact is a folder; here is what lies in each.

Records are frozen, carry a schema version, and load strictly (see components/records.py). Tables
are Parquet. Nothing holds a clock reading or an absolute path, so that equal work gives equal
files, on a laptop and on a cluster alike.

    Manifest          manifest.json, manifest.parquet       one row an image file
    ValidationReport  validation.json, index.html,          and what was looked for of label_errors.json,
                      images.json                         relabel.csv, outliers.json, shortcuts.json
    Split             split.json, split.parquet             one row a distinct image
    Shards            shards.json, <part>-00000-of-00002.tfrecord
    Augmentation      augmentation.json, preview.png, extra shards if asked for
    Training          training.json, model.keras
    Export            export.json, saved_model/
    Evaluation        evaluation.json, predictions.parquet, golden.json, calibration.json; slices.json,
                      saliency.json; with costs: costs.json, cost_report.json
    Smoke test         smoke_test.json
    Decision          decision.json; with costs and a champion: cost_report.json
    Registration      registration.json
    Publication       publication.json
    Confirmation      confirmation.json
"""
