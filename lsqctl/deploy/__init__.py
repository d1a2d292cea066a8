"""From a trained network to files of integers that other runtimes execute, and their proof.

``lsqctl.deploy.convert`` takes any model that ``lsqctl.quant`` has prepared and trained. The onnx
package and runtimes are imported here alone, and inside functions.
"""
