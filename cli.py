import sys
from settings import load
from service import serve
from pathlib import Path
def main() -> None:
    serve(load({"data_dir": Path(sys.argv[1]), "port": int(sys.argv[2])}).settings)
if __name__ == "__main__":
    main()
