"""The model store, and the sidecar that brings its versions to servers."""
