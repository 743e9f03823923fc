"""The models of one component: densities, experts, and the one hot loop that trains them."""
