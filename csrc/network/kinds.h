// The list of all kinds of node. Adding one takes a header, as kind.h describes it, and its name
// here.
#pragma once

#include "attention_node.h"
#include "average_pool.h"
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

using Kinds = TypeList<ConvNode, GroupNorm, LayerNorm, AttentionNode, AveragePool, MapNode, Gather,
                       Observe, Product, RowSoftmax, Reduce>;

}  // namespace fastdiff::network
