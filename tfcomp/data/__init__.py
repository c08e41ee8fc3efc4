"""Images in: data sets, folders, crops, glyphs."""
