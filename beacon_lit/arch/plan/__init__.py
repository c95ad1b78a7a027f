"""Integers alone: row lengths, ratios and where rows stand -> windows -> where every query and key comes from.

ratios      which ratio each window gets: passed, or by the policy
state       where a row stands in its sequence
windows     which tokens run, which windows close, how many beacons they get
call        all of this for one call of the model
layout      for each window its queries, its keys and their slots
rows        a padded batch, packed
"""
