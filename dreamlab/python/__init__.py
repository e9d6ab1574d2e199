# SPDX-License-Identifier: Apache-2.0
"""What `import dreamlab` offers: runs made here, in this process, and jobs of a studio elsewhere."""
