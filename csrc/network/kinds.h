// The kinds of node that there are. A new one is a header (kind.h says what is in it) and a line
// here.
#pragma once

#include "attention_node.h"
#include "conv_node.h"
#include "gather.h"
#include "group_norm.h"
#include "layer_norm.h"
#include "map_node.h"
#include "observe.h"
#include "product.h"
#include "reduce.h"
#include "softmax_node.h"

namespace fastdiff::network {

using Kinds = TypeList<ConvNode, GroupNorm, LayerNorm, AttentionNode, MapNode, Gather, Observe,
                       Product, RowSoftmax, Reduce>;

}  // namespace fastdiff::network
