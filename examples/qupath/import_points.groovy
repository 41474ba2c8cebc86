/*
 * Imports the GeoJSON files of `kinet-trt count --geojson DIR` into the open project, by the names of the images.
 *
 * QuPath 0.5 or newer. Close all images, then run this script once from the script editor (Run > Run, not "Run for
 * project"). It asks for the folder. NAME.geojson belongs to the image NAME, with any file extension. An image that has
 * objects of an earlier import is left as it is.
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO

// Measurement that kinet-trt writes for every nucleus: the height of the model's map.
def SCORE = 'score'

/** Returns the file names, without .geojson, that may belong to an image. Bio-Formats adds " - SERIES" to names. */
def fileNames(String imageName) {
    def names = [imageName, imageName.split(' - ')[0]]
    return (names + names.collect { it.contains('.') ? it.substring(0, it.lastIndexOf('.')) : it } +
        names.collect { GeneralTools.getNameWithoutExtension(it) }).unique()
}

def project = getProject()
if (project == null) {
    println 'Open a project first.'
    return
}
def folder = FileChoosers.promptForDirectory('Folder of count --geojson', null)
if (folder == null)
    return

def unused = folder.listFiles().findAll { it.name.toLowerCase().endsWith('.geojson') }*.name as Set
def nameFor = { entry -> fileNames(entry.getImageName()).find { new File(folder, it + '.geojson').isFile() } }
def images = project.getImageList().countBy(nameFor)
for (entry in project.getImageList()) {
    def imageName = entry.getImageName()
    def name = nameFor(entry)
    if (name == null) {
        println "${imageName}: no file for this image"
        continue
    }
    unused.remove(name + '.geojson')
    if (images[name] > 1) {
        println "${imageName}: not imported, because ${name}.geojson may belong to ${images[name]} images"
        continue
    }
    def imageData = entry.readImageData()
    def hierarchy = imageData.getHierarchy()
    def before = (hierarchy.getAnnotationObjects() + hierarchy.getDetectionObjects()).count {
        it.getMeasurements().containsKey(SCORE)
    }
    if (before > 0) {
        println "${imageName}: not imported, because it has ${before} objects of an earlier import. Delete them first"
    } else {
        def objects = PathIO.readObjects(new File(folder, name + '.geojson'))
        hierarchy.addObjects(objects)
        entry.saveImageData(imageData)
        println "${imageName}: ${objects.size()} objects from ${name}.geojson"
    }
    imageData.getServer().close()
}
unused.each { println "${it}: no image of this name in the project" }
