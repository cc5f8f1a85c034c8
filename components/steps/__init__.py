"""The steps of the pipeline: artifacts in, one artifact out.

A step is a function `step(context, out, *inputs)`: it loads its inputs (folders, see components/artifacts),
calls the domain and saves what it made into the folder `out`. Inputs are named after the artifacts that they
take, so that pipelines/definition.py can derive the order. Nothing here knows which engine runs it.
"""
