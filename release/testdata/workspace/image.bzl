"""Images without dependencies: of files, by the tools of the machine."""

def _image(ctx):
    layout = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [layout],
        inputs = ctx.files.files + [ctx.file._script],
        arguments = [ctx.file._script.path, layout.path] + [file.path for file in ctx.files.files],
        command = "sh \"$@\"",
        mnemonic = "Image",
    )
    return [DefaultInfo(files = depset([layout]))]

image = rule(
    implementation = _image,
    attrs = {
        "files": attr.label_list(allow_files = True),
        "_script": attr.label(default = "//:layout.sh", allow_single_file = True),
    },
)

def go_http_server(name, files):
    """The image of a service, as a target that the default query finds by its macro."""
    image(name = name + "_image_publish", files = files)
