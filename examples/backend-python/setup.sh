#!/bin/sh
# Makes accel-backend-onnxruntime in a folder: setup.sh PROTO FOLDER [VENV]
#   PROTO   the folder sdk/proto of Accel, whose code for Python is generated here
#   FOLDER  gets the program and what it needs
#   VENV    an environment of Python, made if it is not there, where the program looks for it;
#           default FOLDER/venv
set -eu
here=$(cd "$(dirname "$0")" && pwd)
proto=$(cd "$1" && pwd)
mkdir -p "$2"
folder=$(cd "$2" && pwd)
venv=${3:-$folder/venv}
if ! "$venv/bin/python" -c 'import grpc_tools, grpc_status, onnxruntime, onnx' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
"$venv/bin/python" -m grpc_tools.protoc -I "$proto" --python_out="$folder" --grpc_python_out="$folder" accel/backend/v1/backend.proto
cp "$here/backend.py" "$folder/"
cat > "$folder/accel-backend-onnxruntime" <<PROGRAM
#!/bin/sh
exec "$venv/bin/python" "\$(dirname "\$0")/backend.py" "\$@"
PROGRAM
chmod 755 "$folder/accel-backend-onnxruntime"
echo "$folder/accel-backend-onnxruntime"
