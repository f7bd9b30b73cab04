"The command as a module: `python -m mnist_fast`"
import sys
from mnist_fast.cli import main

if __name__=='__main__': sys.exit(main())
