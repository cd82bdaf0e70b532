#!/bin/sh
# layout.sh OUTPUT FILE...: writes an OCI layout of an image with one layer, which has these files.
set -eu
output=$1
shift

# put FILE TYPE: makes a file a blob, and describes it.
put() {
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    size=$(stat --format %s "$1")
    mv "$1" "$output/blobs/sha256/$digest"
    blob="{\"mediaType\":\"application/vnd.oci.image.$2\",\"digest\":\"sha256:$digest\",\"size\":$size}"
}

mkdir -p "$output/blobs/sha256"
# The same octets, whenever and by whomever it is built.
tar --create --dereference --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0755 \
    --file "$output/layer" "$@"
put "$output/layer" layer.v1.tar
layer=$blob diff=$digest
cat > "$output/configuration" << END
{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:$diff"]}}
END
put "$output/configuration" config.v1+json
printf '{"schemaVersion":2,"config":%s,"layers":[%s]}' "$blob" "$layer" > "$output/manifest"
put "$output/manifest" manifest.v1+json
printf '{"schemaVersion":2,"manifests":[%s]}' "$blob" > "$output/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$output/oci-layout"
