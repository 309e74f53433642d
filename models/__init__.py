"""Networks, and the one interface through which the rest of the library calls them."""

from models.adm import ADM as ADM
from models.classifier import UNetEncoder as UNetEncoder
from models.classifier import WideResNet as WideResNet
from models.dit import DIT_SIZES as DIT_SIZES
from models.dit import DiT as DiT
from models.edm2 import EDM2 as EDM2
from models.edm2 import log_variance as log_variance
from models.mlp import MLP as MLP
from models.ncsn import NCSN as NCSN
from models.ncsn import NCSNv2 as NCSNv2
from models.ncsn import ncsnv2_levels as ncsnv2_levels
from models.ncsnpp import NCSNpp as NCSNpp
from models.network import FunctionNetwork as FunctionNetwork
from models.network import LinenNetwork as LinenNetwork
from models.network import Network as Network
from models.network import NnxNetwork as NnxNetwork
from models.network import as_network as as_network
from models.token_transformer import TokenTransformer as TokenTransformer
