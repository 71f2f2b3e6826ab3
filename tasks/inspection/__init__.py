"""Parts of ``tasks.inspect_object``: one file for each kind of object, and drawing."""
